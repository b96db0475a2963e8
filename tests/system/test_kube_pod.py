"""The pod of deploy/kubernetes under `podman play kube`: it trains, and leaves in good order within its grace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gossip_caffe.cluster.etcd.server import EtcdServer
from tests.cluster_run import ROOT, ClusterRun, wait_for
from tests.system.containers import IMAGE, PROGRAMS, Containers
from tests.system.test_kubernetes import pods, rendered
from tests.tiny_job import write_job

POD = "peers-0"


def as_podman_has_it(etcd: str, folder: Path) -> list[dict[str, Any]]:
    """The pod, with the values that a node of a cluster would know, and with folders of this machine as its claims."""
    spec = pods("deployment")["peers"]
    known = {"metadata.name": POD, "spec.nodeName": "node", "status.podIP": "127.0.0.1"}
    container = spec["containers"][0]
    variables = {
        entry["name"]: known[entry["valueFrom"]["fieldRef"]["fieldPath"]] for entry in container["env"]
    }
    (found,) = [entry for entry in rendered("deployment") if entry["kind"] == "ConfigMap"]
    variables |= found["data"] | {"JOB": "tiny", "GOSSIP_CAFFE_ETCD": etcd}
    variables |= {"GOSSIP_CAFFE_ALLOW_CODE": "1", "PYTHONPATH": str(ROOT)}
    del container["envFrom"], container["ports"]  # it has the network of this machine
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    for name, value in variables.items():  # as the kubelet does
        container["args"] = [word.replace(f"$({name})", value) for word in container["args"]]
    container["image"] = IMAGE
    for volume in spec["volumes"]:
        if volume.pop("persistentVolumeClaim", None):
            place = folder / volume["name"]
            volume["hostPath"] = {"path": str(place), "type": "Directory"}
    spec["volumes"].append({"name": "job", "hostPath": {"path": str(folder / "job"), "type": "Directory"}})
    spec["volumes"].append({"name": "tests", "hostPath": {"path": str(ROOT / "tests"), "type": "Directory"}})
    container["volumeMounts"].append({"name": "job", "mountPath": str(folder / "job"), "readOnly": True})
    container["volumeMounts"].append({"name": "tests", "mountPath": str(ROOT / "tests"), "readOnly": True})
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD}, "spec": spec}]


@pytest.mark.long
@pytest.mark.needs("kubectl", "catatonit", "caffe", "etcd", *PROGRAMS)
def test_the_pod_trains_and_drains_within_its_grace(engine: Containers, tmp_path: Path) -> None:
    job, run = write_job(tmp_path / "job", iterations=20_000, pace_ms=20), ClusterRun(tmp_path / "state")
    for name in ("data", "checkpoints"):
        (tmp_path / name).mkdir()
    for path in (tmp_path, tmp_path.parent, *tmp_path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    etcd, file = EtcdServer(tmp_path / "etcd"), tmp_path / "pod.yaml"
    etcd.start()
    file.write_text(yaml.safe_dump_all(as_podman_has_it(etcd.endpoint, tmp_path)))
    create = ("job", "create", "tiny", "--solver", str(job.solver), "--etcd", etcd.endpoint, "--unchecked")
    assert run.run(*create, "--set", "checkpoint_store=file:///checkpoints").returncode == 0
    try:
        engine.run("podman", "play", "kube", "--network=host", str(file))

        def logs() -> str:
            return engine.run("podman", "logs", f"{POD}-peer", check=False)

        try:
            wait_for("the pod trains", lambda: "training (synced" in logs())
            healthy = ("podman", "exec", f"{POD}-peer", "python3", "/usr/local/lib/healthy.py")
            engine.run(*healthy)
            began = time.monotonic()
            engine.run("podman", "stop", "--time=60", f"{POD}-peer")
            assert time.monotonic() - began < 60, "SIGKILL would come then"
            assert "left (drained" in logs()
        except AssertionError:
            print(logs())
            raise
        finally:
            engine.run("podman", "play", "kube", "--down", str(file), check=False)
    finally:
        etcd.stop()
    assert list((tmp_path / "checkpoints").glob("*/*")), "its last checkpoint is in the store"
