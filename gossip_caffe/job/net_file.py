"""A net file on its own, as ``caffe test`` and ``caffe time`` take it: without a solver, in one phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossip_caffe.job.prototxts.legacy import upgraded
from gossip_caffe.job.prototxts.nets import NetState, brings_data, present
from gossip_caffe.job.prototxts.paths import Paths, read_text
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.sources import Measure, read_tested
from gossip_caffe.job.reading import CAFFE_MAY_NOT_READ, located
from gossip_caffe.job.spec.spec import NetTest


def read_net_file(
    path: Path,
    measure: Measure,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    iterations: int = 1,
    working: Path | None = None,
) -> NetTest:
    """Read a net file for ``iterations`` passes in a phase. Relative paths begin as in ``read_model``.

    Raises ModelError or DataError with file and line.
    """
    paths = Paths(path.absolute().parent, (working or Path.cwd()).absolute())
    net = upgraded(Document(read_text(path, "net"), paths.shown(path)))
    own = NetState(phase).merged(net.root.message("state"))
    state = NetState(phase, level, own.stages.union(stages))
    fed = tuple(
        read_tested(net, layer, paths, measure, to_read=True)
        for layer in present(net.root, state)
        if brings_data(layer) and layer.type in CAFFE_MAY_NOT_READ
    )
    return NetTest(located(net, paths), iterations, level, tuple(sorted(state.stages)), fed, True)
