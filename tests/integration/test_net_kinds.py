"""Nets of many kinds, as public examples write them: each trains on one peer, its loss falls, and it is plain Caffe's.

Loader, ring and solver are real; the nets and their solvers are in tests/nets.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gossip_caffe.cli.options.new_job import NewJob, read_spec
from gossip_caffe.data.sources.source import measure
from gossip_caffe.errors import SolverDied
from gossip_caffe.job.reading import read_job
from gossip_caffe.job.spec.spec import JobSettings, JobSpec
from tests.cluster_run import DEADLINE_S, cluster_run, wait_for
from tests.hdf5_data import write_labelled_hdf5, write_sequences
from tests.net_data import write_colours, write_digits, write_labelled_digits, write_pairs
from tests.one_peer import OnePeer, bare, trained
from tests.tiny_job import HURRY, PACED

pytestmark = pytest.mark.integration

NETS = Path(__file__).parents[1] / "nets"
WATCHED = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """A net, its data, for how many iterations it is trained, and to what share of itself its loss falls.

    ``random``: it draws noise or moves its records at random, so plain Caffe's weights are others.
    """

    net: str
    write_data: Callable[[Path], None]
    iterations: int = 60
    falls_to: float = 0.7
    random: bool = False


def nothing(folder: Path) -> None:
    """Write no data: the net makes its own."""


def own_layer(folder: Path) -> None:
    """Put the user's Python layer beside the net."""
    shutil.copy(NETS / "own_layer.py", folder)


KINDS = [
    Kind("lenet", write_digits),
    Kind("cifar_quick", write_colours, iterations=120),
    Kind("siamese", write_pairs),
    Kind("siamese_two_sources", write_pairs),
    Kind("unlike_batches", write_digits),
    Kind("autoencoder", write_digits, falls_to=0.9),
    Kind("residual", write_colours),
    Kind("legacy", write_digits),
    Kind("multi_label", write_labelled_digits),
    Kind("multi_label_hdf5", write_labelled_hdf5, iterations=300),
    Kind("lstm", write_sequences, iterations=150),
    Kind("noise", nothing, iterations=200),
    Kind("own_layer", own_layer, iterations=300),
    Kind("inception", write_colours, iterations=120, random=True),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.net for kind in KINDS])
async def test_a_net_of_this_kind_trains_on_one_peer_as_in_plain_caffe(tmp_path: Path, kind: Kind) -> None:
    kind.write_data(tmp_path)
    job = job_of(tmp_path, kind.net)
    run = await trained(job, kind.iterations, watched=WATCHED, modules=tmp_path)
    first, last = np.mean(run.losses[:WATCHED]), np.mean(run.losses[-WATCHED:])
    assert np.isfinite(run.weights).all()
    assert last < kind.falls_to * first, run.losses
    if not kind.random:
        caffes = bare(
            tmp_path / f"{kind.net}_solver.prototxt", kind.iterations, run.layout, tmp_path, run.start
        )
        assert np.array_equal(run.weights, caffes.weights)


def job_of(folder: Path, net: str) -> JobSpec:
    """The job of a net in tests/nets, its data not yet written."""
    for name in (f"{net}.prototxt", f"{net}_solver.prototxt"):
        shutil.copy(NETS / name, folder)
    return read_job("test", folder / f"{net}_solver.prototxt", JobSettings(), measure)


async def test_no_two_peers_train_on_the_same_noise(tmp_path: Path) -> None:
    job = job_of(tmp_path, "noise")
    assert job.data.sources == ()
    first = await trained(job, 1)
    results = []
    for noise_seed in (1, 1, 2):
        peer = OnePeer(job, noise_seed=noise_seed)
        await peer.start(first.start)
        await peer.train(1)
        await peer.stop()
        results.append(peer.weights())
        peer.ring.close()
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], first.weights)


async def test_a_python_layer_that_cannot_be_imported_is_named_with_the_remedy(tmp_path: Path) -> None:
    peer = OnePeer(job_of(tmp_path, "own_layer"))
    with pytest.raises(SolverDied, match="No module named 'own_layer'") as caught:
        await peer.start()
    assert "PYTHONPATH" in caught.value.remedy
    await peer.stop()


async def test_what_nets_in_the_wild_say_is_taken_as_it_is(tmp_path: Path) -> None:
    write_digits(tmp_path)
    (tmp_path / "models" / "forms").mkdir(parents=True)  # plain Caffe looks whether it can write there
    job_of(tmp_path, "forms")
    # This Caffe cannot build the nets that are tested beside the one that is trained, for they read the same LMDB. Both
    # sides do without: to build a net draws random numbers.
    solver = tmp_path / "forms_solver.prototxt"
    solver.write_text(re.sub(r"test_(iter|interval|state).*", "", solver.read_text()))
    job = read_job("test", solver, JobSettings(), measure)
    run = await trained(job, 60, watched=WATCHED)
    assert np.mean(run.losses[-WATCHED:]) < 0.7 * np.mean(run.losses[:WATCHED])
    assert [blob.layer for blob in run.layout.blobs[-run.layout.frozen :]] == ["frozen", "frozen"]
    caffes = bare(solver, 60, run.layout, tmp_path, None)
    assert np.array_equal(run.start, caffes.start)
    assert np.array_equal(run.weights, caffes.weights)
    assert not list((tmp_path / "models").rglob("*.*"))


def test_caffe_builds_what_nets_in_the_wild_say_before_the_job_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path)
    job_of(tmp_path, "forms")
    assert read_spec("test", str(tmp_path / "forms_solver.prototxt"), NewJob()).budget_samples == 450_000 * 16
    line = f"{tmp_path}/forms_solver.prototxt:23: solver_mode: GPU is not followed: peers train on the CPU"
    assert line in capsys.readouterr().err


def test_a_job_without_data_says_what_its_budget_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_of(tmp_path, "noise")
    read_spec("test", str(tmp_path / "noise_solver.prototxt"), NewJob())
    assert "the net makes its own data" in (said := capsys.readouterr().err)
    assert "the budget is 500 forward passes" in said


LOSS_OF = """
import sys
import caffe
import numpy as np
caffe.set_mode_cpu()
net = caffe.Net(*sys.argv[1:], caffe.TRAIN)
print(np.mean([float(net.forward()["loss"]) for _ in range(20)]))
"""


@pytest.mark.parametrize(
    ("net", "write_data"), [("siamese_two_sources", write_pairs), ("residual", write_colours)]
)
def test_two_peers_train_it_to_a_model_that_plain_caffe_loads(
    tmp_path: Path, net: str, write_data: Callable[[Path], None]
) -> None:
    """The peers train slowly until both have exchanged: so the first one cannot end the job before the second comes."""
    write_data(tmp_path)
    job_of(tmp_path, net)
    hurry = tmp_path / HURRY
    paced = PACED.format(ms=20, hurry=hurry).replace('"label"', '"data"')
    (tmp_path / "paced.prototxt").write_text((tmp_path / f"{net}.prototxt").read_text() + paced)
    solver = tmp_path / f"{net}_solver.prototxt"
    text = solver.read_text().replace(f"{net}.prototxt", "paced.prototxt")
    solver.write_text(re.sub(r"max_iter: \d+", "max_iter: 1200", text))

    with cluster_run(tmp_path / "state") as run:

        def logs() -> list[str]:
            return [path.read_text() for path in (run.folder / "clusters").rglob("events/*.jsonl")]

        def both(event: str) -> bool:
            return len(found := logs()) == 2 and all(f'"event":"{event}"' in log for log in found)

        up = run.start("cluster", "up", "--peers", "2", "--solver", str(solver))
        wait_for("both peers exchange", lambda: both("exchanged"))
        hurry.touch()
        up.wait(DEADLINE_S)
        said = (run.folder / "up.log").read_text()
        assert both("trained")
    result = re.search(r"is finished: (\S+\.caffemodel)", said)
    assert result is not None, said
    trained_loss, fresh_loss = (plain_loss(tmp_path, net, model) for model in (result[1], ""))
    assert trained_loss < 0.5 * fresh_loss


def plain_loss(folder: Path, net: str, model: str) -> float:
    """The loss that plain Caffe finds over some batches, with fresh weights or those of a .caffemodel."""
    arguments = [f"{net}.prototxt", *filter(None, [model])]
    done = subprocess.run(
        [sys.executable, "-c", LOSS_OF, *arguments],
        env={**os.environ, "GLOG_minloglevel": "2"},
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout)
