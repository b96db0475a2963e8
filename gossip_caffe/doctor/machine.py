"""The checks of this machine: everything that a peer needs, whatever its job is."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import resource
import sys
import tempfile

from gossip_caffe.cluster.etcd.etcd_binary import find_etcd
from gossip_caffe.doctor.check_result import CheckResult
from gossip_caffe.errors import GossipCaffeError
from gossip_caffe.solver.checks.gpu_trial import look_at_gpus
from gossip_caffe.solver.checks.pycaffe_report import probe
from gossip_caffe.solver.gpu.gpus import refusal
from gossip_caffe.system import kernel, ordering

FEW_FILES = 1024
"""The least limit on open files: a peer opens about thirty files, and one or two for each partner."""
PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def machine_checks() -> list[CheckResult]:
    """Run all checks, and return their results in the order in which they are shown."""
    found = [
        CheckResult(
            "Python", sys.version_info >= (3, 11), True, platform.python_version(), "use Python 3.11 or newer"
        )
    ]
    caffe = probe()
    what = f"{caffe.path} ({caffe.version}, {caffe.layers} layer types{', with our extension' * caffe.extension})"
    found.append(CheckResult("pycaffe", not caffe.problem, True, caffe.problem or what, "run 'make pycaffe'"))
    found += gpu_findings()
    try:
        found.append(CheckResult("etcd", True, False, str(find_etcd())))
    except GossipCaffeError as error:
        found.append(CheckResult("etcd", False, False, error.message, error.remedy))
    lacks, remedy = kernel.missing()
    found.append(CheckResult("kernel", not lacks, True, lacks or f"Linux {platform.release()}", remedy))
    order = ordering.HERE
    found.append(
        CheckResult(
            "order of stores", order.order is not ordering.Order.NONE, True, order.reason, order.remedy
        )
    )
    found += limits()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found.append(CheckResult("machine", True, False, f"{os.cpu_count()} cores, {memory:.1f} GiB of memory"))
    return found


def limits() -> list[CheckResult]:
    """Check the limits of the shell and the environment: open files, memory, a folder for temporary files, proxies."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= FEW_FILES
    words = "unlimited" if files == resource.RLIM_INFINITY else f"{files:,}"
    found = [CheckResult("open files", enough, False, words, f"raise the limit with 'ulimit -n {FEW_FILES}'")]
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    if memory != resource.RLIM_INFINITY:
        remedy = "lift the limit with 'ulimit -v unlimited': etcd and Caffe reserve far more than they use"
        found.append(CheckResult("address space", False, False, f"{memory / 2**30:.1f} GiB", remedy))
    try:
        found.append(CheckResult("temporary files", True, False, tempfile.gettempdir()))
    except OSError:
        found.append(
            CheckResult(
                "temporary files", False, True, "no folder can be written", "set $TMPDIR to one that can"
            )
        )
    if proxies := [name for name in PROXIES if os.environ.get(name)]:
        note = f"{', '.join(proxies)}: not used for etcd and peers"
        found.append(CheckResult("proxy", True, False, note))
    return found


def gpu_findings() -> list[CheckResult]:
    """Check the GPUs and the libraries that make them fast. A peer needs none of them: it can train on the CPU."""
    try:
        gpus = asyncio.run(look_at_gpus())
    except GossipCaffeError as error:
        return [CheckResult("GPU", False, False, error.message, error.remedy)]
    if (problem := refusal(gpus)) is not None:
        return [CheckResult("GPU", False, False, problem.message, problem.remedy)]
    found = [CheckResult("GPU", True, False, gpu.words()) for gpu in gpus.gpus]
    if gpus.no_cudnn:
        found.append(CheckResult("cuDNN", False, False, "Caffe's own kernels are used", gpus.no_cudnn))
    for module, use in (("cupy", "quick snapshots on a GPU"), ("pynvml", "a GPU's memory in the status")):
        there = importlib.util.find_spec(module) is not None
        found.append(CheckResult(module, there, False, use if there else f"no {use}", "see docs/gpu.md"))
    return found
