"""The examples, each in a copy that has less to do: their commands run, and leave a model and a picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster_run import DEADLINE_S, ROOT

pytestmark = [pytest.mark.needs("caffe", "etcd", "matplotlib"), pytest.mark.timeout(2 * DEADLINE_S)]

PNG = b"\x89PNG\r\n"


@dataclass(frozen=True, slots=True)
class Copy:
    """An example in a folder of its own. ``root``: the folder that stands for the root of the checkout."""

    root: Path
    folder: Path

    def with_fields(self, file: str, **fields: int) -> None:
        """Give fields of a prototxt other values; each must be there."""
        path = self.folder / file
        text = path.read_text()
        for field, value in fields.items():
            text, count = re.subn(rf"^{field}: \d+$", f"{field}: {value}", text, flags=re.M)
            assert count == 1, f"{file}: {field}"
        path.write_text(text)

    def run(self, *command: str, within: bool = False, **more: str) -> str:
        """Run a command at the root, or ``within`` the example's folder. Returns what it printed."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "GOSSIP_CAFFE_FASHION_MNIST"},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GOSSIP_CAFFE_STATE": str(self.root / "state"),
            "OPENBLAS_NUM_THREADS": "1",
            "GLOG_minloglevel": "2",
            **more,
        }
        done = subprocess.run(
            command,
            cwd=self.folder if within else self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def has_picture(self) -> bool:
        """Whether it has drawn its picture."""
        return (self.folder / "picture.png").read_bytes().startswith(PNG)


def copy_of(name: str, root: Path) -> Copy:
    """An example, and the script that draws logs, without anything that was made beside them."""
    folder = root / "examples" / name
    made = ("*_lmdb", "*.binaryproto", "*.caffemodel", "*.log", "*.solverstate", "fleet", "picture.png")
    shutil.copytree(ROOT / "examples" / name, folder, ignore=shutil.ignore_patterns(*made))
    shutil.copy(ROOT / "examples" / "draw.py", root / "examples")
    return Copy(root, folder)


@pytest.mark.needs("sklearn")
def test_the_digits_are_prepared_and_trained(tmp_path: Path) -> None:
    example = copy_of("digits", tmp_path)
    example.run("python", "examples/digits/prepare.py")
    example.with_fields("solver.prototxt", max_iter=60, test_interval=30, snapshot=30)
    example.run("gossip-caffe", "train", "--solver", "examples/digits/solver.prototxt", "--peers", "2")
    assert (example.folder / "single_iter_60.caffemodel").exists()


def test_lenet_trains_on_pictures_of_the_shape_of_fashion_mnist(tmp_path: Path) -> None:
    example = copy_of("fashion-mnist", tmp_path)
    here = "examples/fashion-mnist"
    example.run("python", f"{here}/prepare.py", "--records", "640")
    example.with_fields("solver.prototxt", max_iter=40, test_interval=20, test_iter=6, display=5)
    log = f"{here}/train.log"
    example.run("gossip-caffe", "train", "--solver", f"{here}/solver.prototxt", "--peers", "2", "--log", log)
    assert (example.folder / "lenet_iter_40.caffemodel").exists()
    example.run("python", "examples/draw.py", "--to", f"{here}/picture.png", log)
    assert example.has_picture()


def test_cifar10_quick_goes_through_its_three_stages(tmp_path: Path) -> None:
    example = copy_of("cifar10", tmp_path)
    example.run("python", "examples/cifar10/prepare.py", "--records", "400")
    for stage, iterations in {"": 10, "_lr1": 14, "_lr2": 18}.items():
        fields = {"max_iter": iterations, "test_iter": 2, "test_interval": 6, "display": 1}
        example.with_fields(f"quick_solver{stage}.prototxt", **fields)
    example.run("sh", "examples/cifar10/train.sh")
    assert (example.folder / "quick_iter_18.caffemodel").exists()
    rates = [last_rate(example.folder / f"quick{stage}.log") for stage in ("", "_lr1", "_lr2")]
    assert rates[0] > 5 * rates[1] > 25 * rates[2]
    assert "Iteration 10," in (example.folder / "quick_lr1.log").read_text(), (
        "it goes on at the snapshot's iteration"
    )
    assert example.has_picture()


def last_rate(log: Path) -> float:
    """The newest learning rate in a log."""
    return float(re.findall(r"lr = (\S+)", log.read_text())[-1])


@pytest.mark.needs("sklearn")
def test_a_net_is_fine_tuned_from_the_weights_of_another_task(tmp_path: Path) -> None:
    example = copy_of("finetuning", tmp_path)
    example.run("python", "examples/finetuning/prepare.py")
    example.with_fields("first_solver.prototxt", max_iter=60, test_interval=60)
    example.with_fields("second_solver.prototxt", max_iter=30, display=1)
    example.run("sh", "examples/finetuning/run.sh", PEERS="1")
    losses = [first_loss(example.folder / f"{name}.log") for name in ("tuned", "fresh")]
    assert losses[0] != losses[1], "one begins with weights, the other without"
    assert example.has_picture()


def first_loss(log: Path) -> str:
    """The first loss in a log."""
    found = re.search(r"loss = (\S+)", log.read_text())
    assert found is not None
    return found[1]


def test_scripts_with_surgery_train_a_net_of_pixels(tmp_path: Path) -> None:
    example = copy_of("fcn", tmp_path)
    example.with_fields("classifier_solver.prototxt", max_iter=60)
    example.with_fields("solver.prototxt", max_iter=80)
    said = example.run("python", "run.py", "--peers", "2", within=True)
    assert "s0: syncing → training" in said
    assert "s1: syncing → training" in said
    assert "iteration 80: mean IU" in said
    assert example.has_picture()


@pytest.mark.needs("sklearn")
def test_unequal_machines_share_the_records(tmp_path: Path) -> None:
    example = copy_of("unequal-machines", tmp_path)
    example.with_fields("solver.prototxt", max_iter=400, test_interval=200)
    said = example.run("python", "run.py", within=True)
    assert "records lost: 0" in said
    assert example.has_picture()


@pytest.mark.needs("sklearn")
def test_a_spot_fleet_loses_its_machines_and_finishes(tmp_path: Path) -> None:
    example = copy_of("spot-fleet", tmp_path)
    example.with_fields("solver.prototxt", max_iter=1000, test_interval=250)
    said = example.run("python", "run.py", within=True)
    assert "notice m0" in said
    assert "kill m1" in said
    assert "records lost: 0" in said
    assert example.has_picture()
