"""The environment variables by which a launcher of MPI (mpirun, mpiexec, srun) tells a process its rank.

Only the process that the launcher started is a rank. Its children must not have these variables: a library of MPI in a
child would introduce itself to the launcher as the same rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RANK_AND_SIZE = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH and its relatives; srun --mpi=pmi2
    ("PMIX_RANK", ""),  # srun --mpi=pmix, prun
)
_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MPI_LOCAL", "HYDI_")
"""The beginnings of the names of launchers' variables."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The place of this process in a launch. ``size``: the number of ranks; 0 where the launcher does not tell it."""

    rank: int
    size: int


def launch_in(environment: Mapping[str, str]) -> Launch | None:
    """The launch that an environment names; None if no launcher of MPI started this process."""
    for rank, size in _RANK_AND_SIZE:
        if (number := environment.get(rank, "")).isdecimal():
            count = environment.get(size, "")
            return Launch(int(number), int(count) if count.isdecimal() else 0)
    return None


def without_rank(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The changes that a child's environment needs so that the child is no rank: each variable to None."""
    return {name: None for name in environment if name.startswith(_OF_LAUNCHERS)}
