"""For a python3 that is older than 3.11: hands over to a newer one on the PATH, or says that there is none.

This file must be readable by the old one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NEWER = ("python3.13", "python3.12", "python3.11")
EXIT_ENVIRONMENT = 6


def hand_over() -> None:
    """Run the same command with a newer Python; never returns."""
    if "--only-this-python" not in sys.argv:
        for name in NEWER:
            found = shutil.which(name)
            if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
                os.execv(found, [found] + sys.argv)  # noqa: RUF005 - as old Pythons have it
    sys.stderr.write(
        "setup: {} is Python {}.{}, and 3.11 or newer is needed; install one (Debian 12 and Ubuntu 24.04 have it "
        "as python3) and run make with PYTHON=/path/to/it\n".format(sys.executable, *sys.version_info[:2])
    )
    sys.exit(EXIT_ENVIRONMENT)
