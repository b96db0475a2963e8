"""The environment variables by which a launcher of MPI (mpirun, mpiexec, srun) tells a process its rank.

Only the process that the launcher started is a rank. Its children must not have these variables: a library of MPI in a
child would introduce itself to the launcher as the same rank.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_RANK_AND_SIZE = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH and its relatives; srun --mpi=pmi2
    ("PMIX_RANK", ""),  # srun --mpi=pmix, prun
)
_RANKS = tuple(f"{name}=".encode() for name, _ in (*_RANK_AND_SIZE, ("SLURM_PROCID", "")))
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_DESCRIPTORS = ("PMI_FD", "HYDI_CONTROL_FD")
"""Variables that name descriptors by which a rank of MPICH speaks with its launcher."""
_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MPI_LOCAL", "HYDI_")
"""The beginnings of the names of launchers' variables."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The place of this process in a launch. ``size``: the number of ranks; 0 where the launcher does not tell it.

    ``local``: the rank among those of this machine, from 0 on.
    """

    rank: int
    size: int
    local: int = 0


def launch_in(environment: Mapping[str, str]) -> Launch | None:
    """The launch that an environment names; None if no launcher of MPI started this process."""
    for rank, size in _RANK_AND_SIZE:
        if (number := environment.get(rank, "")).isdecimal():
            count = environment.get(size, "")
            locals_ = (environment.get(name, "") for name in _LOCAL_RANKS)
            local = next((int(text) for text in locals_ if text.isdecimal()), int(number))
            return Launch(int(number), int(count) if count.isdecimal() else 0, local)
    return None


def step_in(environment: Mapping[str, str]) -> Launch | None:
    """The tasks of one ``srun`` without MPI as a launch; None if there is no such step, or it has one task."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    texts = [environment.get(name, "") for name in names]
    if not all(text.isdecimal() for text in texts) or int(texts[1]) < 2:
        return None
    return Launch(*map(int, texts))


def launcher(proc: Path = Path("/proc")) -> str:
    """The process that has started the ranks of this machine, and its start: the same text for all of them.

    Between it and a rank may be scripts, which have the rank's variables, too.
    """
    pid = os.getppid()
    while True:
        try:
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            told = (proc / str(pid) / "environ").read_bytes().split(b"\0")
        except PermissionError:
            return f"{pid}-{fields[19]}"  # a launcher of another user, as Slurm's
        except OSError:
            return f"{pid}-0"  # it has ended: the launch ends, too
        if not any(
            text.startswith(tuple(f"{rank}=".encode() for rank, _ in _RANK_AND_SIZE)) for text in told
        ):
            return f"{pid}-{fields[19]}"
        pid = int(fields[1])


def of_rank(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that make a child the rank which this process is. Only one process may ever be that rank."""
    return {name: value for name, value in environment.items() if name.startswith(_OF_LAUNCHERS)}


def descriptors(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The descriptors that such a child needs."""
    return tuple(int(text) for name in _DESCRIPTORS if (text := environment.get(name, "")).isdecimal())


def without_rank(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The changes that a child's environment needs so that the child is no rank: each variable to None."""
    return {name: None for name in environment if name.startswith(_OF_LAUNCHERS)}
