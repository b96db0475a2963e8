"""The parts of the pycaffe recipe that compile nothing."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "pycaffe"))

import adaptations
import adaptations_api
import adaptations_fields
import adaptations_schema
import build
import compiling
import needs
import pinned
import wheel_file

pytestmark = pytest.mark.unit


def test_a_source_that_the_adaptations_were_not_written_for_stops_the_build_naming_the_file(
    tmp_path: Path,
) -> None:
    net = tmp_path / "src" / "caffe" / "net.cpp"
    net.parent.mkdir(parents=True)
    net.write_text("int main() {}\n")
    with pytest.raises(adaptations.AdaptationError, match=r"src/caffe/net\.cpp.*0 times, not 1"):
        adaptations.adapt(tmp_path)


def test_an_adaptation_that_fits_more_often_than_expected_stops_the_build_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptations, "CHANGES", (adaptations.Change("a.cpp", "x", "y", "to try it"),))
    (tmp_path / "a.cpp").write_text("x x")
    with pytest.raises(adaptations.AdaptationError, match="2 times, not 1"):
        adaptations.adapt(tmp_path)
    (tmp_path / "a.cpp").write_text("x")
    adaptations.adapt(tmp_path)
    assert (tmp_path / "a.cpp").read_text() == "y"


def test_every_change_says_why_and_changes_something() -> None:
    for part in (adaptations, adaptations_api, adaptations_fields, adaptations_schema):
        for change in part.CHANGES:
            assert change.why
            assert change.old != change.new


def test_every_file_of_the_layers_and_the_bindings_is_part_of_one_recipe() -> None:
    names = {
        f"{path.parent.name}/{path.name}"
        for folder in ("layers", "bindings")
        for path in (build.HERE / folder).iterdir()
    }
    assert names == {
        name for name in (*build.RECIPE, *build.CUDA_RECIPE) if name.startswith(("layers/", "bindings/"))
    }


def test_a_number_that_two_families_gave_away_is_taken_once() -> None:
    added = "\n".join(change.new for change in adaptations_schema.CHANGES)
    for field, (theirs, ours) in adaptations_schema.FOREIGN_NUMBERS.items():
        name = field.partition(".")[2]
        assert f" {name} = {ours}" in added
        assert f" {name} = {theirs}" not in added


def test_missing_packages_are_those_whose_files_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()
    absent = {"cmake", "liblmdb-dev"}
    missing = needs.missing(
        (3, 11), distribution=(3, 11), include=tmp_path, has=lambda need: need.package not in absent
    )
    assert {need.package for need in missing} == absent
    assert needs.install_command(missing) == "sudo apt-get install cmake liblmdb-dev"


def test_the_systems_boost_is_asked_for_only_by_the_python_that_it_serves(tmp_path: Path) -> None:
    (tmp_path / "Python.h").touch()

    def packages(version: tuple[int, int]) -> set[str]:
        missing = needs.missing(version, distribution=(3, 11), include=tmp_path, has=lambda need: False)
        return {need.package for need in missing}

    assert packages((3, 11)) - packages((3, 12)) == {
        "libboost-python-dev",
        "libboost-thread-dev",
        "libboost-filesystem-dev",
        "libboost-regex-dev",
    }
    assert packages((3, 12)) <= packages((3, 11))


def test_a_python_without_headers_needs_the_package_of_its_version(tmp_path: Path) -> None:
    missing = needs.missing((3, 12), distribution=(3, 12), include=tmp_path, has=lambda need: True)
    assert [need.package for need in missing] == ["python3.12-dev"]


def test_every_supported_python_has_a_pinned_boost_on_this_kind_of_machine() -> None:
    boosts = [pinned.carried_boost(tag, "x86_64") for tag in ("cp311", "cp312", "cp313")]
    assert all(boost and boost.file.endswith(".whl") for boost in boosts)
    assert pinned.carried_boost("cp312", "riscv64") is None


def test_an_archive_with_another_hash_is_refused_and_removed(tmp_path: Path) -> None:
    archive = tmp_path / "thing-1.tar.gz"
    archive.write_bytes(b"not it")
    expected = pinned.Pinned("thing", "1", archive.name, hashlib.sha256(b"it").hexdigest())
    with pytest.raises(pinned.FetchError, match="not the pinned"):
        pinned.fetch(expected, tmp_path, tmp_path / "log")
    assert not archive.exists()


def test_an_archive_that_was_put_into_the_cache_by_hand_is_taken(tmp_path: Path) -> None:
    archive = tmp_path / "thing-1.tar.gz"
    archive.write_bytes(b"it")
    expected = pinned.Pinned("thing", "1", archive.name, hashlib.sha256(b"it").hexdigest())
    assert pinned.fetch(expected, tmp_path, tmp_path / "log") == archive


def test_a_wheel_holds_its_files_and_a_record_of_every_one(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "caffe" / "__pycache__").mkdir(parents=True)
    (package / "caffe" / "__init__.py").write_text("")
    (package / "caffe" / "__pycache__" / "x.pyc").write_text("")
    described = wheel_file.Description("a-b", "1.0+c", "What it is", "BSD-2-Clause", ("numpy",), ">=3.11")
    wheels = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        licences = {"LICENSE": b"free"}
        wheels.append(wheel_file.pack(package, described, "py3-none-any", licences, tmp_path / name))
    assert wheels[0].name == "a_b-1.0+c-py3-none-any.whl"
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        record = archive.read("a_b-1.0+c.dist-info/RECORD").decode().splitlines()
        assert b"Requires-Dist: numpy\n" in archive.read("a_b-1.0+c.dist-info/METADATA")
    assert sorted(line.split(",")[0] for line in record) == sorted(names)
    assert not any("__pycache__" in name for name in names)


def test_progress_is_said_once_for_each_tenth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "for n in range(1, 41): print(f'[{n}/40] Building')"
    compiling.run_logged([sys.executable, "-c", script], tmp_path / "log", "compiling")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"pycaffe: compiling {10 * tenth}%" for tenth in range(1, 11)]


def test_a_failed_command_is_one_line_with_its_cause_and_the_log(tmp_path: Path) -> None:
    script = "import sys; print('a.cpp:1: error: no'); print('more'); sys.exit(1)"
    with pytest.raises(compiling.BuildError) as failed:
        compiling.run_logged([sys.executable, "-c", script], tmp_path / "log", "compiling")
    assert "a.cpp:1: error: no" in str(failed.value)
    assert str(tmp_path / "log") in str(failed.value)
    assert "\n" not in str(failed.value)
    assert "more" in (tmp_path / "log").read_text()
