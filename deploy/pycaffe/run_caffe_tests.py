"""Runs Caffe's own Python tests against the pycaffe that the running Python imports.

The tests come from the pinned source and are unpacked into a folder that goes away. They were written for
older Pythons: names that unittest has dropped since are given back to it here; nothing else is changed. With
``--gpu N`` they run in GPU mode on that GPU; the one that asks for the CPU's mode does not get it then.

The last line is ``RESULT {json}`` with the number run and the tests that failed; exit code 1 when one did.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

import pinned
from build import EXIT_ENVIRONMENT, cache_root
from compiling import say

OLD_NAMES = {"assertEquals": "assertEqual", "assertRaisesRegexp": "assertRaisesRegex"}
UNDER = f"{pinned.CAFFE.file.removesuffix('.tar.gz')}/python/caffe/test"


def give_back_old_names() -> None:
    """Restore the aliases that unittest lost in Python 3.12."""
    for old, new in OLD_NAMES.items():
        setattr(unittest.TestCase, old, getattr(unittest.TestCase, new))


def run(folder: Path) -> unittest.TestResult:
    """Run every test of a folder, in that folder: some write files where they are."""
    os.chdir(folder)
    suite = unittest.defaultTestLoader.discover(str(folder))
    return unittest.TextTestRunner(stream=sys.stderr, verbosity=1).run(suite)


def main() -> int:
    """Unpack, run, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="in GPU mode, on this GPU")
    options = parser.parse_args()
    if options.gpu is not None:
        import caffe  # noqa: PLC0415 - the tests' own

        caffe.set_device(options.gpu)
        caffe.set_mode_gpu()
        caffe.set_mode_cpu = lambda: None
    give_back_old_names()
    log = cache_root() / "caffes-own-tests.log"
    with tempfile.TemporaryDirectory(prefix="caffes-own-tests-") as temporary:
        try:
            archive = pinned.fetch(pinned.CAFFE, cache_root() / "sources", log)
        except pinned.FetchError as error:
            say(str(error))
            return EXIT_ENVIRONMENT
        pinned.unpack(archive, Path(temporary), under=UNDER)
        result = run(Path(temporary) / UNDER)
        os.chdir("/")
    failed = sorted(test.id() for test, _ in [*result.failures, *result.errors])
    summary = {"run": result.testsRun, "failed": failed, "skipped": len(result.skipped)}
    print(f"RESULT {json.dumps(summary)}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
