"""What is missing makes a skip with its reason, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip_caffe.errors import NotInstalled
from tests import optional

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.optional import SkipsWhatIsMissing
def pytest_configure(config):
    config.addinivalue_line("markers", "needs(*names)")
    config.pluginmanager.register(SkipsWhatIsMissing())
"""


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optional.PACKAGES, "not_here", "pip install not_here")
    monkeypatch.setitem(optional.PROGRAMS, "no-such-program", "no-such-package")


def test_a_missing_package_and_a_missing_program_are_named_with_what_installs_them(absent: None) -> None:
    assert optional.missing("not_here") == "not_here is not installed; pip install not_here"
    assert "apt-get install no-such-package" in optional.missing("no-such-program")
    assert optional.missing("make") in ("", "make is not installed; apt-get install make")


def test_a_need_that_no_table_knows_is_a_mistake_in_the_test() -> None:
    with pytest.raises(KeyError):
        optional.missing("something")


def test_only_what_is_optional_and_missing_indeed_is_a_reason_to_skip(
    absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert optional.reason_to_skip(ModuleNotFoundError("x", name="not_here.part"))
    assert optional.reason_to_skip(NotInstalled("x", name="not_here", remedy=""))
    assert not optional.reason_to_skip(ModuleNotFoundError("x", name="our_typing_error"))
    assert not optional.reason_to_skip(ImportError("cannot import name 'a' from 'not_here'"))
    monkeypatch.setitem(optional.PACKAGES, "json", "nothing")
    assert not optional.reason_to_skip(NotInstalled("x", name="json", remedy=""))


def test_modules_fixtures_bodies_and_marks_are_skipped_and_mistakes_are_not(
    pytester: pytest.Pytester, absent: None
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_module="import not_here\ndef test_never_collected(): pass\n",
        test_broken="import our_typing_error\n",
        test_others="""
import pytest
@pytest.fixture
def needy():
    import not_here
def test_in_a_fixture(needy): pass
def test_in_the_body():
    import not_here.part
@pytest.mark.needs("no-such-program")
def test_marked(): assert False
def test_mistake():
    import our_typing_error
def test_well(): pass
""",
    )
    pytester.syspathinsert(Path(__file__).parents[2])
    result = pytester.runpytest_inprocess("-rs", "-p", "no:xdist", "--continue-on-collection-errors")
    result.assert_outcomes(skipped=4, failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["*not_here is not installed; pip install not_here*"])
