"""What the setup of a checkout decides to do, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "pycaffe"))

import needs
import setup_plan
from setup_plan import Found, Kind, SetupError, Step, SystemPackage, Wanted

pytestmark = pytest.mark.unit

WANTED = Wanted(python="", package="p1", extras="dev", pycaffe="c1")
DONE = Found(venv_works=True, python="Python 3.11.2 of /usr", package="p1", extras="dev", pycaffe="c1")
CMAKE = SystemPackage("cmake", "configures the build")
IP = SystemPackage("iproute2", "networks for some tests", optional=True)


def kinds(steps: list[Step]) -> list[Kind]:
    return [step.kind for step in steps]


def changed(found: Found = DONE, **fields: str) -> Found:
    names = ("python", "package", "extras", "pycaffe")
    return Found(
        venv_works=found.venv_works, **{name: fields.get(name, getattr(found, name)) for name in names}
    )


def test_nothing_is_done_when_everything_is_as_wanted() -> None:
    assert setup_plan.steps_in_venv(DONE, WANTED) == []


def test_a_fresh_checkout_needs_everything_and_each_step_has_a_reason() -> None:
    steps = setup_plan.steps_in_venv(setup_plan.found(False, {}), WANTED)
    assert kinds(steps) == [Kind.VENV, Kind.PACKAGE, Kind.PYCAFFE]
    assert all(step.reason for step in steps)


def test_the_stamp_of_an_environment_that_does_not_work_is_not_believed() -> None:
    stamp = {"python": DONE.python, "package": "p1", "extras": "dev", "pycaffe": "c1"}
    assert setup_plan.found(True, stamp) == DONE
    assert kinds(setup_plan.steps_in_venv(setup_plan.found(False, stamp), WANTED))[0] is Kind.VENV


def test_a_changed_pyproject_installs_again_and_leaves_pycaffe_alone() -> None:
    assert kinds(setup_plan.steps_in_venv(changed(package="p0"), WANTED)) == [Kind.PACKAGE]


def test_a_changed_recipe_builds_pycaffe_and_leaves_the_rest_alone() -> None:
    assert kinds(setup_plan.steps_in_venv(changed(pycaffe="c0"), WANTED)) == [Kind.PYCAFFE]


def test_a_python_that_was_asked_for_makes_the_environment_anew() -> None:
    asked = Wanted(python="Python 3.12.1 of /opt", package="p1", extras="dev", pycaffe="c1")
    steps = setup_plan.steps_in_venv(DONE, asked)
    assert kinds(steps) == [Kind.VENV, Kind.PACKAGE, Kind.PYCAFFE]
    assert "Python 3.11.2" in steps[0].reason


def test_the_python_of_an_environment_stays_when_none_was_asked_for() -> None:
    assert setup_plan.steps_in_venv(changed(python="Python 3.13.0 of /opt"), WANTED) == []


@pytest.mark.parametrize(
    ("installed", "wanted", "installs"),
    [
        ("demo", "dev", True),
        ("dev", "demo", False),
        ("dev", "dev", False),
        ("", "demo", True),
        ("dev", "docs", True),
        ("docs", "dev", False),
    ],
)
def test_extras_are_installed_when_they_are_not_there_and_never_taken_away(
    installed: str, wanted: str, installs: bool
) -> None:
    target = Wanted(python="", package="p1", extras=wanted, pycaffe="c1")
    steps = setup_plan.steps_in_venv(changed(extras=installed), target)
    assert kinds(steps) == ([Kind.PACKAGE] if installs else [])
    assert setup_plan.wider(installed, wanted) == max(wanted, installed, key=("", *setup_plan.EXTRAS).index)


def test_system_packages_come_first_and_are_listed_with_why() -> None:
    steps = setup_plan.with_system([Step(Kind.PYCAFFE, "new")], [CMAKE])
    assert kinds(steps) == [Kind.SYSTEM, Kind.PYCAFFE]
    assert "cmake (configures the build)" in steps[0].reason


def test_no_system_package_is_asked_for_by_a_step_that_does_not_need_it() -> None:
    packages = setup_plan.system_packages(
        [Step(Kind.PACKAGE, "new")],
        python=(3, 11),
        python_has_venv=False,
        missing_for_package=[],
        missing_for_pycaffe=[CMAKE],
    )
    assert packages == []


def test_a_python_without_venv_gets_the_package_of_its_version() -> None:
    steps = setup_plan.steps_in_venv(setup_plan.found(False, {}), WANTED)
    packages = setup_plan.system_packages(
        steps,
        python=(3, 12),
        python_has_venv=False,
        missing_for_package=[IP, CMAKE],
        missing_for_pycaffe=[CMAKE],
    )
    assert [package.name for package in packages] == ["python3.12-venv", "iproute2", "cmake"]


@pytest.mark.parametrize(
    ("is_root", "has_apt", "has_sudo", "left"),
    [(True, True, False, 2), (False, True, True, 2), (False, True, False, 1), (True, False, False, 1)],
)
def test_what_only_some_tests_use_is_no_reason_to_fail_where_nothing_can_be_installed(
    is_root: bool, has_apt: bool, has_sudo: bool, left: int
) -> None:
    packages = setup_plan.without_optional([IP, CMAKE], is_root=is_root, has_apt=has_apt, has_sudo=has_sudo)
    assert len(packages) == left
    assert CMAKE in packages


@pytest.mark.parametrize(
    ("python", "built"), [((3, 11), False), ((3, 12), False), ((3, 13), True), ((3, 14), True)]
)
def test_the_leveldb_binding_is_built_where_it_has_no_wheel(
    python: tuple[int, int], built: bool, tmp_path: Path
) -> None:
    names = [need.package for need in needs.leveldb_binding(python, tmp_path)]
    assert ("libleveldb-dev" in names, f"python{python[0]}.{python[1]}-dev" in names) == (built, built)


def test_root_updates_once_and_installs_without_questions() -> None:
    update, install = setup_plan.install_commands([CMAKE], is_root=True, has_apt=True, has_sudo=False)
    assert update == ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "update"]
    assert install[:3] == update[:3]
    assert install[-1] == "cmake"
    assert "--yes" in install


def test_a_user_with_sudo_installs_through_it() -> None:
    commands = setup_plan.install_commands([CMAKE], is_root=False, has_apt=True, has_sudo=True)
    assert [command[0] for command in commands] == ["sudo", "sudo"]


def test_a_user_who_may_not_install_gets_the_command_in_one_line() -> None:
    with pytest.raises(SetupError, match="run as root: apt-get install cmake") as refused:
        setup_plan.install_commands([CMAKE], is_root=False, has_apt=True, has_sudo=False)
    assert "\n" not in str(refused.value)


def test_a_system_without_apt_is_told_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"no apt-get.*cmake"):
        setup_plan.install_commands([CMAKE], is_root=True, has_apt=False, has_sudo=False)


def test_a_digest_changes_with_content_and_with_absence_but_not_with_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    first = setup_plan.digest([one, two])
    assert setup_plan.digest([two, one]) == first
    two.write_text("22")
    second = setup_plan.digest([one, two])
    two.unlink()
    assert len({first, second, setup_plan.digest([one, two])}) == 3
