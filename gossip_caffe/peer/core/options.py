"""The options with which one peer is started. It reads every other setting from its job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gossip_caffe.job.relocation import DataRoot
from gossip_caffe.peer.core.lifecycle import GRACE_S
from gossip_caffe.security.security import PLAIN, Security


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """The options of one peer process.

    * ``security`` is its identity, for etcd and for peers.
    * ``listen`` is the address that its gRPC server binds: "host:port", with port 0 for a free one. ``advertise`` is
      the address that other peers call. Empty: the address with which this machine reaches etcd.
    * ``run_dir`` holds its events and checkpoints; ``events_dir``, when it is given, holds the events instead.
    * ``metrics_listen`` is the address of its metrics: "host:port", "none" for none, empty for the default.
    * ``transport`` is the way of weights to other ranks of this peer's launch: a value of ``Way``.
    * ``zone`` is the zone of this machine; a peer asks partners of its own zone more often.
    * ``gpu`` is the GPU to train on: CUDA's number or "auto"; empty: the CPU.
    * ``job`` is the job's name; empty: the only job in etcd.
    * ``data_roots`` maps the job's paths to the folders of this machine that hold its data.
    * ``from_checkpoint`` is the checkpoint to which the job goes back first; empty: the job does not go back.
    * ``allow_code`` allows this machine to run code that the job names; None: if etcd lets only known users write.
    * ``snapshots``: while this peer is alone, it writes the solver's snapshots, at their exact iterations, to
      ``run_dir``.
    * ``event_log_bytes`` limits the size of its event log, by removal of the oldest parts; 0: no limit.
      ``event_log_part_bytes`` is the size at which a part is closed; 0: the default.
    * ``grace_s`` is the seconds from the first request to leave to the end of the process.
    * ``wait_for_etcd_s`` and ``wait_for_job_s`` are the seconds that the peer waits for etcd, and for its job there.
    * ``preemption_url`` is the metadata endpoint that announces the end of this machine; empty: none is asked.
    * ``tensorboard`` is the folder to which the peer writes its figures for TensorBoard; None: it writes none.
    * ``script_fd`` is the descriptor of a socket to the script that is this peer's solver, -1 for a solver process;
      ``script_device`` is the device on which that script computes; ``own_data``: it reads its own data, and the job's
      records only count its batches.
    * ``overseer_fd`` is the descriptor of a socket to the supervisor that started this peer, -1 for none.
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
    allow_code: bool | None = False
    events_dir: Path | None = None
    snapshots: bool = False
    event_log_bytes: int = 0
    event_log_part_bytes: int = 0
    grace_s: float = GRACE_S
    wait_for_etcd_s: float = 0.0
    wait_for_job_s: float = 0.0
    preemption_url: str = ""
    tensorboard: Path | None = None
    overseer_fd: int = -1
    script_fd: int = -1
    script_device: str = ""
    own_data: bool = False
    metrics_listen: str = ""
    transport: str = "auto"
    security: Security = PLAIN

    @property
    def way(self) -> str:
        """``transport``; with a certificate MPI, which sends weights in clear, only where it is asked for."""
        return "grpc" if self.security.tls is not None and self.transport == "auto" else self.transport
