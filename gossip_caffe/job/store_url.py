"""Where a job keeps checkpoints beside its peers: a URL in its settings, which everybody who reads the job sees."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from gossip_caffe.errors import UsageError


def checked_store_url(url: str) -> str:
    """The URL of a store, "" for none. Raises UsageError when it is none, or holds a name or a password."""
    if not url:
        return url
    # What was given is not repeated: it may hold a secret even where it is no URL, and the line may end up in a log.
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not parts.scheme or "://" not in url:
        raise UsageError(
            "checkpoint_store: what was given is not a URL",
            remedy="write file:///folder, s3://bucket/path or the like",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"checkpoint_store: the URL of a {parts.scheme} store holds more than a place",
            remedy="leave names and keys out: give them to each peer by its environment or its machine's role",
        )
    return url.rstrip("/")
