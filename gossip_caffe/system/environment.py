"""Yes or no in an environment variable."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gossip_caffe.errors import UsageError

_SAID = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def yes_or_no(variable: str, environment: Mapping[str, str] = os.environ) -> bool | None:
    """The word of an environment variable; None if it is empty or missing. Raises UsageError for any other word."""
    said = environment.get(variable, "").strip().lower()
    if not said:
        return None
    if said not in _SAID:
        raise UsageError(f"{variable}={said!r:.40}: neither yes nor no", remedy="set it to 1 or 0")
    return _SAID[said]
