"""Writes the files that are made from the code: three pages and a picture of docs/, and the dashboard for Grafana.

    python deploy/generated_files.py [--check]

``--check`` writes nothing; the exit code is 1 where a file differs from the code.
"""

from __future__ import annotations

import argparse
import sys

import deployment_picture
import etcd_keys_page
import metrics_page
import settings_page
from grafana import dashboard

FILES = (
    (settings_page.PAGE, settings_page.page),
    (metrics_page.PAGE, metrics_page.page),
    (etcd_keys_page.PAGE, etcd_keys_page.page),
    (dashboard.FILE, dashboard.text),
    (deployment_picture.FILE, deployment_picture.text),
)


def main() -> int:
    """Write the files that differ, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    only_compares = parser.parse_args().check
    differ = False
    for file, text in FILES:
        wanted = text()
        if not file.exists() or file.read_text(encoding="utf-8") != wanted:
            differ = True
            if not only_compares:
                file.write_text(wanted, encoding="utf-8")
    return int(differ and only_compares)


if __name__ == "__main__":
    sys.exit(main())
