"""Generates gossip_caffe/wire from protos/, and compiles arithmetic and fences, when the package is built."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
WIRE = ROOT / "gossip_caffe" / "wire"

ARITHMETIC = Extension(
    "gossip_caffe.gossip.averaging.arithmetic",
    ["gossip_caffe/gossip/averaging/arithmetic.c"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=["-O3", "-ffp-contract=off", "-Wno-psabi"],
    py_limited_api=True,
    optional=True,  # without a compiler, or on another processor, NumPy does the same more slowly
)
FENCES = Extension(
    "gossip_caffe.system.fences",
    ["gossip_caffe/system/fences.c"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
    optional=True,  # x86-64 does without; any other machine is refused without it
)


def generate_wire() -> None:
    """Write ``<name>_pb2.py`` and its type stub into gossip_caffe/wire for each file of protos/."""
    from grpc_tools import protoc  # noqa: PLC0415 - a build requirement, absent when only metadata is read

    for proto in sorted((ROOT / "protos").glob("*.proto")):
        status = protoc.main(
            ["protoc", f"-I{ROOT / 'protos'}", f"--python_out={WIRE}", f"--pyi_out={WIRE}", str(proto)]
        )
        if status != 0:
            raise SystemExit(f"protoc refused {proto.name} (status {status}); see its message above")


class BuildWithWire(build_py):  # type: ignore[misc]
    """``build_py`` that generates the wire messages first."""

    def run(self) -> None:
        """Generate, then build."""
        generate_wire()
        super().run()


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithWire}, ext_modules=[ARITHMETIC, FENCES])
