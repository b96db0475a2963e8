"""The remote store of a job's checkpoints: a URL in the job's settings, which all readers of the job see.

The same rules are checked where the URL is given and where it is read: the job is stored in etcd, where others may
write.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from gossip_caffe.errors import UsageError

PROTOCOLS = frozenset(
    {
        "abfs",
        "abfss",
        "az",
        "file",
        "gcs",
        "gs",
        "hdfs",
        "memory",
        "oci",
        "oss",
        "s3",
        "s3a",
        "sftp",
        "smb",
        "ssh",
        "webhdfs",
    }
)
"""The permitted kinds of stores. Some other protocols of fsspec wrap a second URL, unpack archives or run commands."""
MOST_CHARACTERS = 1024


def checked_store_url(url: str) -> str:
    """The URL of a store; "" for none. Raises UsageError when it is no URL, or contains more than a place."""
    if not url:
        return url
    # The message must not repeat the value: it may contain a secret even if it is no URL, and the line may be logged.
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not parts.scheme or "://" not in url:
        raise UsageError(
            "checkpoint_store: what was given is not a URL",
            remedy="write file:///folder, s3://bucket/path or the like",
        )
    if "::" in url or parts.scheme not in PROTOCOLS:
        what = "a URL within a URL" if "::" in url else "a store of a kind that is not allowed"
        raise UsageError(
            f"checkpoint_store: what was given is {what}",
            remedy=f"give a place by one of {', '.join(sorted(PROTOCOLS))}",
        )
    if set("@;%") & set(url) or parts.query or parts.fragment or "?" in url or "#" in url:
        raise UsageError(
            f"checkpoint_store: the URL of a {parts.scheme} store holds more than a place",
            remedy="leave names and keys out: give them to each peer by its environment or its machine's role",
        )
    if len(url) > MOST_CHARACTERS or not url.isprintable() or "\\" in url or ".." in url.split("/"):
        raise UsageError(
            f"checkpoint_store: the URL of a {parts.scheme} store does not name one folder",
            remedy="write its whole path, without '..' and without characters that cannot be seen",
        )
    return url.rstrip("/")
