"""What somebody else may have written: ids, addresses and URLs that must never be obeyed, and a look at what was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

IDS: tuple[str, ...] = (
    "",
    ".",
    "..",
    "../victim",
    "../../victim",
    "zz/../../victim",
    "zz/../../../../../../../../tmp/victim",
    "/victim",
    "/etc/passwd",
    "//victim",
    "a/b",
    "a/",
    "./a",
    "a/.",
    "a//b",
    "a\0b",
    "\0",
    "a\nb",
    "a\r",
    "\t",
    " ",
    " a",
    "a ",
    "a b",
    "a\\..\\b",
    "..\\victim",
    "C:victim",
    "a:b",
    "~",
    "~root",
    "$HOME",
    "`id`",
    "$(id)",
    "a;b",
    "a|b",
    "a*",
    "a?",
    "-rf",
    "--help",
    "_a",
    ".unfinished-x",
    ".unfinished-../victim",
    ".hidden",
    "x" * 129,
    "x" * 300,
    "é" * 100,
    "e\u0301",  # an e, and an accent that is laid over it
    "\u202egpj.exe",  # from right to left
    "a\u200bb",  # a space without width
    "\uff0e\uff0e\uff0fvictim",  # dots and a slash as wide as Chinese ones
    "\u2025",
    "а",  # the letter of the Cyrillic alphabet
    "\ud800",  # half of a surrogate pair
    "\x1b]0;title\x07",
    "\x7f",
    "%2e%2e%2fvictim",
)
ADDRESSES: tuple[str, ...] = (
    "",
    ":",
    ":7100",
    "host:",
    "host:0",
    "host:65536",
    "host:99999999999999999999",
    "host:-1",
    "host:7100 ",
    " host:7100",
    "host:٣",
    "host:7100\n",
    "ho st:7100",
    "unix:7100",
    "unix:/run/docker.sock",
    "unix:///run/docker.sock",
    "unix-abstract:gossip",
    "UNIX:1",
    "dns:443",
    "dns:///host:443",
    "dns://8.8.8.8/host:443",
    "ipv4:10.0.0.1:443,10.0.0.2:443",
    "ipv6:[::1]:443",
    "vsock:1:2",
    "xds:///x:1",
    "http://host:7100",
    "user:pw@host:7100",
    "host/path:7100",
    "a:b:7100",
    "::1:7100",
    "[::1:7100",
    "host\x1b[2J:7100",
    "host\0:7100",
    "x" * 300 + ":7100",
)
STORE_URLS: tuple[str, ...] = (
    "simplecache::s3://KEY:SECRET@bucket",
    "filecache::s3://bucket/x",
    "simplecache::file:///x",
    "zip://x.zip::s3://bucket",
    "zip://x.zip",
    "chain::file:///x",
    "s3://KEY:SECRET@bucket/x",
    "s3://bucket/x@y",
    "s3://KEY%3ASECRET%40bucket/x",
    "s3://bucket/x;token=1",
    "s3://bucket/x?token=1",
    "s3://bucket/x#part",
    "s3://bucket/x?",
    "http://169.254.169.254/latest",
    "https://host/x",
    "ftp://host/x",
    "github://org:repo@main/",
    "reference://x",
    "jupyter://x",
    "dask://x",
    "local://x",
    "file:///a/../../etc",
    "file:///a\nb",
    "file:///" + "x" * 2000,
    "/just/a/path",
    "s3:bucket",
    "::",
)


def tree_digest(root: Path) -> str:
    """SHA-256 over every name, kind, size and content below a folder; links are not followed."""
    found = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            found.update(f"{path.relative_to(root)} {path.lstat().st_mode}\n".encode(errors="replace"))
            if path.is_file() and not path.is_symlink():
                found.update(path.read_bytes())
    return found.hexdigest()
