"""The image: clean by hadolint, built from a bootstrapped base, small, without a compiler, and no root's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.optional import program
from tests.system.containers import IMAGE, PROGRAMS, Containers
from tests.tiny_job import write_job

FILE = Path(__file__).parents[2] / "deploy" / "docker" / "Dockerfile"
MOST_MB = 700
READ_ONLY = (
    "--rm",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--network=none",
    "--security-opt=no-new-privileges",
)


@pytest.mark.needs("hadolint")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([program("hadolint"), str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.long
@pytest.mark.needs(*PROGRAMS)
def test_it_is_small_labelled_watched_and_no_roots(engine: Containers) -> None:
    (found,) = json.loads(engine.run("podman", "image", "inspect", IMAGE))
    print(f"{found['Size'] / 1e6:.0f} MB")
    assert found["Size"] < MOST_MB * 1_000_000
    assert found["User"] == "10001:10001"
    assert "healthy.py" in str(found["Healthcheck"]["Test"])
    wanted = {"title", "description", "licenses", "version", "revision", "base.name"}
    assert {f"org.opencontainers.image.{name}" for name in wanted} <= set(found["Labels"])


@pytest.mark.long
@pytest.mark.needs(*PROGRAMS)
def test_its_own_user_finds_all_in_order_and_neither_compiler_nor_pip(engine: Containers) -> None:
    said = engine.run("podman", "run", *READ_ONLY, IMAGE)
    assert "FAULT" not in said
    assert "pycaffe" in said
    look = "id -u; command -v gcc cc c++ g++ make pip || echo none; find / -xdev -writable -type f 2>/dev/null; true"
    inside = engine.run("podman", "run", *READ_ONLY, "--entrypoint=sh", IMAGE, "-c", look).split()
    assert inside[:2] == ["10001", "none"]
    assert not [path for path in inside[2:] if not path.startswith(("/var/lib/gossip-caffe", "/dev", "/tmp"))]


@pytest.mark.long
@pytest.mark.needs(*PROGRAMS)
def test_a_model_is_trained_in_it(engine: Containers, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", records=200, iterations=60)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    mount = f"--volume={job.folder}:{job.folder}:ro"
    train = ("train", str(job.solver), "--peers", "2")
    engine.run("podman", "run", *READ_ONLY, mount, IMAGE, *train)
