"""What one peer is started with; everything else it reads from its job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.job.relocation import DataRoot


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Settings of one peer process.

    ``listen`` is where its gRPC server binds ("host:port", port 0 picks a free one), ``advertise`` what others call;
    empty means the address with which etcd is reached. ``run_dir`` takes its events and checkpoints.
    ``zone``: where this machine is; partners of the same zone are asked more often.
    ``gpu``: the card to train on, by CUDA's number or "auto"; empty: the CPU.
    ``data_roots``: where this machine has the job's data, if elsewhere. ``from_checkpoint``: let the job go back to it.
    """

    endpoints: tuple[str, ...]
    job: str
    run_dir: Path
    peer: str = ""
    listen: str = ""
    advertise: str = ""
    engine: str = "pycaffe"
    zone: str = ""
    gpu: str = ""
    data_roots: tuple[DataRoot, ...] = ()
    from_checkpoint: str = ""
