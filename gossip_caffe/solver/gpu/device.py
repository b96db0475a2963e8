"""Names of devices: "cpu", or "gpu:0" for the GPU that CUDA numbers 0."""

from __future__ import annotations

from gossip_caffe.errors import UsageError

CPU = "cpu"
AUTO = "auto"
"""The value of ``--gpu`` for the GPU with the most free memory."""
_GPU = "gpu:"


def gpu_device(index: int) -> str:
    """Return the device name of the GPU with CUDA's number ``index``: "gpu:0"."""
    return f"{_GPU}{index}"


def gpu_index(device: str) -> int | None:
    """Return the GPU's number in a device name; None for the CPU. Raises ValueError for any other text."""
    if device == CPU:
        return None
    number = device.removeprefix(_GPU)
    if not device.startswith(_GPU) or not number.isdecimal():
        raise ValueError(f"{device!r} is not the name of a device")
    return int(number)


def parse_gpu(text: str, option: str) -> int | None:
    """Read the value of ``--gpu``: a GPU's number, or None for "auto". Raises UsageError for any other text."""
    if text.strip().lower() == AUTO:
        return None
    if not text.strip().isdecimal():
        raise UsageError(
            f"{option} {text}: {text.strip()!r} is not the number of a GPU",
            remedy=f"give one number that 'gossip-caffe doctor' shows, or {AUTO}",
        )
    return int(text)


def parse_gpus(text: str, option: str) -> tuple[int, ...]:
    """Read a list of GPUs: numbers with commas between them, one for each peer. Raises UsageError."""
    found = [parse_gpu(word, option) for word in text.split(",") if word.strip()]
    gpus = tuple(index for index in found if index is not None)
    if not gpus or len(gpus) < len(found):
        raise UsageError(
            f"{option} {text}: not a list of GPU numbers",
            remedy=f"write {option} 0,1, or all",
        )
    return gpus
