"""Which GPU a peer takes, and what it is told when it gets none."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gossip_caffe.errors import EnvironmentProblem, ExitCode, GossipCaffeError, ModelError, UsageError
from gossip_caffe.solver.checks import gpu_child, gpu_trial
from gossip_caffe.solver.gpu import memory_gauge
from gossip_caffe.solver.gpu.device import CPU, gpu_device, gpu_index, parse_gpu, parse_gpus
from gossip_caffe.solver.gpu.gpus import GIB, Gpu, Gpus, chosen, refusal
from gossip_caffe.system.children import ChildEnd

H100 = "NVIDIA H100 80GB HBM3"


def gpu(index: int, free_gib: float = 70.0) -> Gpu:
    return Gpu(index, H100, "9.0", f"0000:4{index}:00.0", 80 * GIB, int(free_gib * GIB))


def found(*gpus: Gpu, **changes: Any) -> Gpus:
    fields = {"caffe": "/site/caffe/__init__.py", "built": True, "count": len(gpus), "gpus": gpus}
    return Gpus(**{**fields, **changes})


def test_a_number_takes_that_gpu_and_auto_the_one_with_the_most_free_memory() -> None:
    there = found(gpu(0, 10), gpu(1, 60), gpu(2, 60))
    assert chosen(there, 0).index == 0
    assert chosen(there, None).index == 1


def test_what_was_found_survives_its_way_from_the_child() -> None:
    there = found(gpu(0), missing=("no libcublas",), no_cudnn="no libcudnn")
    assert Gpus.from_record(json.loads(json.dumps(there.to_record()))) == there


@pytest.mark.parametrize(
    ("there", "wanted", "what", "remedy"),
    [
        (Gpus(caffe="/site/caffe"), 0, "/site/caffe was built for the CPU only", "make setup CUDA=1"),
        (found(gpu(0), missing=("cannot open libcublas.so.13",)), 0, "libcublas.so.13", "docs/gpu.md"),
        (found(reason="CUDA driver version is insufficient"), 0, "driver version", "nvidia-smi"),
        (found(), None, "there is no GPU", "without --gpu"),
        (found(gpu(0)), 1, "no GPU 1 on this machine: the only one is GPU 0", "auto"),
        (found(gpu(0), gpu(1)), 5, "no GPU 5 on this machine: there are 2", "doctor"),
    ],
)
def test_a_refusal_says_what_is_missing_and_what_to_do(
    there: Gpus, wanted: int | None, what: str, remedy: str
) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        chosen(there, wanted)
    assert what in refused.value.message
    assert remedy in refused.value.remedy
    assert refused.value.exit_code is ExitCode.ENVIRONMENT
    assert "\n" not in str(refused.value)


def test_without_cudnn_a_gpu_is_good_enough() -> None:
    assert refusal(found(gpu(0), no_cudnn="cannot open libcudnn.so.9")) is None


def test_a_device_has_one_name_each_way() -> None:
    assert gpu_index(CPU) is None
    assert gpu_index(gpu_device(12)) == 12
    for wrong in ("gpu", "gpu:", "gpu:x", "cuda:0", "gpu:-1"):
        with pytest.raises(ValueError, match="not the name of a device"):
            gpu_index(wrong)


def test_gpus_are_named_by_number_or_auto() -> None:
    assert (parse_gpu("3", "--gpu"), parse_gpu(" AUTO", "--gpu")) == (3, None)
    assert parse_gpus("0,1, 1", "--gpus") == (0, 1, 1)
    for wrong in ("", "auto", "0,auto", "0,x", "-1"):
        with pytest.raises(UsageError, match="--gpus"):
            parse_gpus(wrong, "--gpus")


FATAL = (
    "F1126 12:00:00.000000  7 syncedmem.cpp:64] Check failed: error == cudaSuccess (2 vs. 0)  out of memory"
)
AT_LAYER = "I1126 12:00:00.000000  7 net.cpp:84] Creating Layer conv"
UNKNOWN = "F1126 12:00:00.000000  7 layer_factory.cpp:66] Layer conv has unknown engine."


def failure(stderr: tuple[str, ...], at: Gpu | None = None, *messages: dict[str, Any]) -> GossipCaffeError:
    return gpu_trial._failed(list(messages), ChildEnd(-6, stderr), at)


def test_a_net_that_does_not_fit_on_the_gpu_is_one_line_with_what_is_free_there() -> None:
    error = failure((FATAL,), gpu(0, 1.25))
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert f"GPU 0 ({H100}, 1.2 of 80.0 GiB free) has too little memory" in error.message
    assert "smaller batch_size" in error.remedy


def test_a_layer_that_caffe_refuses_on_the_gpu_is_the_models_fault() -> None:
    error = failure((AT_LAYER, UNKNOWN), gpu(0))
    assert isinstance(error, ModelError)
    assert "layer 'conv'" in error.message


@pytest.mark.parametrize(
    ("stderr", "what"),
    [
        ((FATAL,), "out of memory"),
        (("ModuleNotFoundError: No module named 'caffe'",), "No module named 'caffe'"),
        ((), "killed by SIGABRT"),
    ],
)
def test_gpus_that_cannot_be_looked_at_are_told_with_the_last_words(
    stderr: tuple[str, ...], what: str
) -> None:
    error = failure(stderr)
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert what in error.message
    assert error.remedy


def test_the_childs_own_refusal_is_passed_on() -> None:
    error = failure((), None, {"failed": "there is no GPU 1", "remedy": "give another"})
    assert str(error) == "there is no GPU 1; give another"


def caffe_with(monkeypatch: pytest.MonkeyPatch, **extension: Any) -> None:
    """A pycaffe whose extension has these; without any it has no extension."""
    caffe = ModuleType("caffe")
    caffe.__file__ = "/site/caffe/__init__.py"
    caffe.set_device = lambda index: None  # type: ignore[attr-defined]
    if extension:
        caffe._gossip = SimpleNamespace(**extension)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "caffe", caffe)
    monkeypatch.delitem(sys.modules, "caffe._gossip", raising=False)


def device(index: int) -> tuple[str, str, str, int, int]:
    if index == 1:
        raise RuntimeError("all CUDA-capable devices are busy or unavailable")
    return H100, "9.0", f"0000:4{index}:00.0", 80 * GIB, 70 * GIB


def test_a_gpu_that_is_taken_whole_by_somebody_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = {"cuDNN": "cannot open libcudnn.so.9"}
    caffe_with(
        monkeypatch,
        built_for_cuda=True,
        device_count=lambda: 3,
        device=device,
        missing_libraries=lambda: missing,
    )
    there = gpu_child.look([])
    assert [one.index for one in there.gpus] == [0, 2]
    assert (there.count, there.reason, there.missing, there.no_cudnn) == (3, "", (), missing["cuDNN"])
    assert gpu_child.look([2, 2, 9]).gpus == (gpu(2),)
    taken = gpu_child.look([1])
    with pytest.raises(EnvironmentProblem, match="GPU 1: all CUDA-capable devices are busy"):
        chosen(taken, 1)


def test_what_cuda_says_of_a_missing_driver_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    caffe_with(
        monkeypatch,
        built_for_cuda=True,
        device_count=count,
        missing_libraries=lambda: {"cuBLAS": "cannot open libcublas.so.13"},
    )
    there = gpu_child.look([])
    assert there.reason.startswith("CUDA driver version")
    assert there.missing == ("cannot open libcublas.so.13",)


@pytest.mark.parametrize("extension", [{"step": None}, {"built_for_cuda": False}])
def test_an_extension_without_cuda_has_no_gpus(
    monkeypatch: pytest.MonkeyPatch, extension: dict[str, Any]
) -> None:
    caffe_with(monkeypatch, **extension)
    assert gpu_child.look([]) == Gpus(caffe="/site/caffe/__init__.py")


def test_another_caffe_is_asked_by_using_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    caffe_with(monkeypatch)
    there = gpu_child.look([3, 1])
    assert there.built
    assert chosen(there, 3).words() == "GPU 3 (a GPU)"
    assert chosen(gpu_child.look([]), None).index == 0


class NVMLError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """nvidia-ml-py with one GPU of 80 GiB."""

    NVMLError = NVMLError
    used = 3 * GIB
    fails = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fails:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:  # noqa: N802
        if bus != "0000:40:00.0":
            raise NVMLError("Not Found")
        return bus

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if self.used < 0:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(used=self.used, total=80 * GIB)


def gauge_of(monkeypatch: pytest.MonkeyPatch, nvml: object, bus: str) -> memory_gauge.GpuGauge | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return memory_gauge.open_gauge(bus)


def test_the_gauge_tells_what_is_in_use_on_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    gauge = gauge_of(monkeypatch, nvml, gpu(0).bus)
    assert gauge is not None
    assert gauge.used_bytes() == 3 * GIB
    nvml.used = -1
    assert gauge.used_bytes() is None


@pytest.mark.parametrize(
    ("nvml", "bus"), [(None, gpu(0).bus), (FakeNvml(fails=True), gpu(0).bus), (FakeNvml(), "0000:99:00.0")]
)
def test_where_nvml_is_not_or_knows_no_such_gpu_there_is_no_gauge(
    monkeypatch: pytest.MonkeyPatch, nvml: object, bus: str
) -> None:
    assert gauge_of(monkeypatch, nvml, bus) is None
