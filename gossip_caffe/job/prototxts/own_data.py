"""User-defined Python layers that make a net's data. Their data is not shared out, so peers must make it differently.

Each peer tells its layers a rank and a count (docs/data.md). ``ranks_of`` gives the number of ranks of a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.spec.spec import JobSettings, JobSpec

RANK = "GOSSIP_CAFFE_RANK"
COUNT = "GOSSIP_CAFFE_COUNT"
SEED = "GOSSIP_CAFFE_SEED"
_TOLD_BY = (b"solver_rank", RANK.encode(), SEED.encode())


def own_layers(sources: Iterable[Layer]) -> list[Layer]:
    """The source layers of a net that are the user's own Python layers."""
    return [layer for layer in sources if layer.type == "Python"]


def ranks_of(sources: Iterable[Layer], settings: JobSettings, peers: int) -> int:
    """The number of ranks that a job's peers share; 0 where no layer could ask for a rank.

    ``peers``: the number of peers that the command that creates the job starts; 0 where it starts none.
    """
    return (settings.layer_ranks or max(1, peers)) if own_layers(sources) else 0


def passes_before(spec: JobSpec, progress_samples: int) -> int:
    """The mean number of passes that each rank has made after so many samples of the job; 0 without ranks."""
    if not spec.ranks:
        return 0
    passes = spec.schedule.first_iteration * spec.iter_size + progress_samples // spec.data.batch_records
    return passes // spec.ranks


def module_and_class(layer: Layer) -> tuple[str, str]:
    """The module and the class that a Python layer imports; "" where its text does not name them."""
    param = layer.fields.message("python_param")
    return (param.text("module"), param.text("layer")) if param is not None else ("", "")


def reads_rank(module: str, folders: Sequence[str]) -> bool:
    """True if the source of the first such module in ``folders`` mentions rank or seed. The module is read, not run."""
    if not module:
        return False
    for folder in folders:
        path = Path(folder, *module.split("."))
        for found in (path / "__init__.py", path.parent / f"{path.name}.py"):
            try:
                text = found.read_bytes()
            except (OSError, ValueError):
                continue
            return any(word in text for word in _TOLD_BY)
    return False
