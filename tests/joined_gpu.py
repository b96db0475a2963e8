"""A script on a GPU as a peer, for tests on GPUs that are there, and on those that are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gossip_caffe as gc
from gossip_caffe.errors import NotFound
from tests.cluster_run import wait_for

SCRIPT = """
import sys
import caffe
import gossip_caffe as gc
etcd, solver, gpu, run_dir = sys.argv[1:]
caffe.set_device(int(gpu))
caffe.set_mode_gpu()
made = caffe.get_solver(solver)
with gc.join(made, etcd=etcd, job="g", create=solver, own_data=True, gpu=int(gpu), run_dir=run_dir, name="s") as peer:
    while peer.step():
        pass
print(peer.finished)
"""


def trains_on(gpu: int, etcd: str, solver: Path, folder: Path, environment: dict[str, str]) -> None:
    """Let a script train a job on that GPU to its end; its peer's record names the GPU meanwhile."""
    script = folder / "on_gpu.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), etcd, str(solver), str(gpu), str(folder / "run")]
    with (
        gc.connect(etcd) as jobs,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process,
    ):

        def device() -> str:
            try:
                return "".join(
                    peer.record.device for peer in jobs.job("g").peers() if peer.state == "training"
                )
            except NotFound:
                return ""

        try:
            assert wait_for("the script trains", device) == f"gpu:{gpu}"
            assert process.communicate(timeout=120)[0] == "True\n"
        finally:
            process.kill()
