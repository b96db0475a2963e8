"""The device's half of the pycaffe recipe, as far as it compiles nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "pycaffe"))

import adaptations_cuda
import build
import cuda_toolkit
import setup_plan
from compiling import BuildError
from cuda_toolkit import Toolkit

pytestmark = pytest.mark.unit

CUDA = Path(build.__file__).parent / "cuda"
HEADERS = ("cublas_v2.h", "curand.h", "cudnn.h")


def toolkit(**changes: object) -> Toolkit:
    fields: dict[str, object] = {
        "nvcc": Path("/cuda/bin/nvcc"),
        "version": (13, 0),
        "includes": (Path("/wheels/include"),),
        "architectures": ("90", "80"),
        "cudnn": True,
    }
    return Toolkit(**{**fields, **changes})  # type: ignore[arg-type]


def folder_with(folder: Path, *headers: str) -> Path:
    (folder / "include").mkdir(parents=True)
    for header in headers:
        (folder / "include" / header).touch()
    return folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80,90", ("80", "90")),
        ("8.0 sm_90 90", ("80", "90")),
        ("", ()),
        ("120", ("120",)),
        ("75;80", ("75", "80")),
    ],
)
def test_architectures_are_read_however_they_are_written(text: str, found: tuple[str, ...]) -> None:
    assert cuda_toolkit.parse_architectures(text) == found


@pytest.mark.parametrize("text", ["hopper", "9", "80,x"])
def test_an_architecture_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match=r"CUDA_ARCHS: .* is no architecture"):
        cuda_toolkit.parse_architectures(text)


def test_only_the_newest_architecture_goes_along_as_code_for_gpus_to_come() -> None:
    assert cuda_toolkit.cmake_architectures(("120", "90", "80")) == ["80-real", "90-real", "120"]


@pytest.mark.parametrize(
    ("told", "version"), [("release 12.8, V12.8.93", (12, 8)), ("release 13.0,", (13, 0))]
)
def test_the_compilers_version_is_read(told: str, version: tuple[int, int]) -> None:
    assert cuda_toolkit.version_of(f"nvcc: NVIDIA (R)\nCuda compilation tools, {told}\n") == version


@pytest.mark.parametrize(
    ("told", "why"), [("release 11.8,", "CUDA 11.8 is not supported"), ("clang", "does not tell its version")]
)
def test_a_compiler_that_does_not_serve_is_refused(told: str, why: str) -> None:
    with pytest.raises(BuildError, match=why):
        cuda_toolkit.version_of(told)


def test_cuda_home_comes_before_the_path_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    for name in ("home", "path"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / "nvcc").touch(mode=0o755)
    home = {"CUDA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path" / "bin")}
    assert cuda_toolkit.find_nvcc(home) == (tmp_path / "home/bin/nvcc").resolve()
    assert cuda_toolkit.find_nvcc({"PATH": home["PATH"]}) == (tmp_path / "path/bin/nvcc").resolve()
    with pytest.raises(BuildError, match="has no bin/nvcc"):
        cuda_toolkit.find_nvcc({"CUDA_HOME": str(tmp_path)})


def test_a_toolkit_that_has_everything_needs_no_wheels(tmp_path: Path) -> None:
    whole = folder_with(tmp_path / "cuda", *HEADERS)
    wheel = folder_with(tmp_path / "wheel", *HEADERS)
    found = cuda_toolkit.find_headers(whole, [wheel], cudnn=True, major=13)
    assert found == (whole / "include",)


def test_what_a_toolkit_lacks_is_taken_from_wheels(tmp_path: Path) -> None:
    bare = folder_with(tmp_path / "cuda")
    blas, dnn = folder_with(tmp_path / "cu13", *HEADERS[:2]), folder_with(tmp_path / "cudnn", HEADERS[2])
    found = cuda_toolkit.find_headers(bare, [blas, dnn], cudnn=True, major=13)
    assert found == (blas / "include", dnn / "include")


@pytest.mark.parametrize(
    ("major", "there", "cudnn", "says"),
    [
        (13, (), True, r"pip install nvidia-cublas nvidia-curand nvidia-cudnn-cu13'"),
        (12, ("curand.h",), False, r"pip install nvidia-cublas-cu12'"),
        (13, HEADERS[:2], True, r"pip install nvidia-cudnn-cu13'.*without cuDNN: CUDNN=0"),
    ],
)
def test_headers_that_are_nowhere_are_named_with_their_packages(
    tmp_path: Path, major: int, there: tuple[str, ...], cudnn: bool, says: str
) -> None:
    if any((Path("/usr/include") / header).exists() for header in HEADERS):
        pytest.skip("this system has CUDA's headers in /usr/include")
    bare = folder_with(tmp_path / "cuda", *there)
    with pytest.raises(BuildError, match=says):
        cuda_toolkit.find_headers(bare, [], cudnn=cudnn, major=major)


def test_the_version_of_cudnn_is_read_from_its_headers(tmp_path: Path) -> None:
    (tmp_path / "cudnn_version.h").write_text("#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 28\n")
    assert cuda_toolkit.cudnn_version([tmp_path / "nowhere", tmp_path]) == 9
    assert cuda_toolkit.cudnn_version([tmp_path / "nowhere"]) is None


def test_cmake_is_told_where_everything_is_and_where_it_will_be() -> None:
    settings = toolkit().settings
    assert "-DCMAKE_CUDA_ARCHITECTURES=80-real;90" in settings
    assert "-DCUDNN=ON" in settings
    (run_path,) = [entry for entry in settings if entry.startswith("-DCUDA_RUN_PATH=")]
    assert "$ORIGIN/../nvidia/cu13/lib" in run_path


def test_a_wheel_for_gpus_has_a_name_and_a_place_of_its_own() -> None:
    keys = [build.cache_key(None), build.cache_key(toolkit()), build.cache_key(toolkit(cudnn=False))]
    keys.append(build.cache_key(toolkit(architectures=("90",))))
    assert len(set(keys)) == 4
    assert build.version_of(None) == build.VERSION
    assert build.version_of(toolkit()) == f"{build.VERSION}.cu13.cudnn9"
    assert build.version_of(toolkit(cudnn=False)) == f"{build.VERSION}.cu13"


def test_what_is_for_gpus_alone_leaves_the_wheel_for_the_cpu_as_it_is() -> None:
    assert not set(build.RECIPE) & set(build.CUDA_RECIPE)
    assert {path.name for path in CUDA.iterdir()} == {
        name.removeprefix("cuda/") for name in build.CUDA_RECIPE if name.startswith("cuda/")
    }


def test_every_change_says_why_and_changes_something() -> None:
    for change in adaptations_cuda.CHANGES:
        assert change.why
        assert change.old != change.new


def test_every_function_that_is_opened_names_itself() -> None:
    """A slip in this list would call one function with another's arguments."""
    lines = (CUDA / "opened_libraries.hpp").read_text().splitlines()
    opened = [
        found
        for line in lines
        if (found := re.match(r"#define (\w+) CAFFE_(?:CUBLAS|CURAND|CUDNN|OPENED)\((?:CUDNN, )?(\w+)", line))
        and not found[1].startswith("CAFFE_")
    ]
    assert len(opened) > 60
    for found in opened:
        assert found[1] == found[2]


def test_make_tells_the_build_only_what_was_asked_for() -> None:
    assert setup_plan.pycaffe_words(0, "90", 0) == []
    assert setup_plan.pycaffe_words(1, "", 1) == ["--cuda", "1"]
    assert setup_plan.pycaffe_words(1, "80, 90", 0) == [
        "--cuda",
        "1",
        "--cuda-archs",
        "80,90",
        "--cudnn",
        "0",
    ]
