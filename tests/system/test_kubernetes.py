"""The manifests of deploy/kubernetes: rendered by kubectl, strict for three versions, and fitting the program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gossip_caffe.errors import ExitCode
from tests.known_words import unknown
from tests.optional import program

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("deployment", "job", "overlays/gpu", "overlays/spot", "overlays/hpa", "overlays/tls")
VERSIONS = ("1.29.0", "1.33.0", "1.37.0")
WITHOUT_SCHEMA = ("Certificate", "Issuer")
"""Kinds of cert-manager, which Kubernetes itself does not know."""

pytestmark = pytest.mark.needs("kubectl", "kubernetes-validate")


def rendered(overlay: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The objects that an overlay makes; kubectl must have nothing to say."""
    done = subprocess.run(
        [program("kubectl"), "kustomize", str(folder / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pods of an overlay, by the name of what makes them."""
    return {
        found["metadata"]["name"]: found["spec"]["template"]["spec"]
        for found in rendered(overlay)
        if "template" in found.get("spec", {})
    }


def faults(objects: list[dict[str, Any]], version: str, file: Path) -> str:
    """What a strict validation says of objects; "" for nothing."""
    file.write_text(yaml.safe_dump_all(objects))
    strict = [program("kubernetes-validate"), "--strict", "--quiet", "-k", version, str(file)]
    done = subprocess.run(strict, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_all_overlays_are_strictly_valid(version: str, tmp_path: Path) -> None:
    objects = [found for overlay in OVERLAYS for found in rendered(overlay)]
    known = [found for found in objects if found["kind"] not in WITHOUT_SCHEMA]
    assert len(known) > 40
    assert faults(known, version, tmp_path / "all.yaml") == ""


def test_a_misspelt_probe_would_be_seen(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "copy")
    file = tmp_path / "copy" / "deployment" / "peers.yaml"
    file.write_text(file.read_text().replace("readinessProbe", "readynessProbe"))
    objects = rendered("deployment", tmp_path / "copy")
    assert "readynessProbe" in faults(objects, VERSIONS[-1], tmp_path / "all.yaml")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_peers_have_options_of_the_program_and_time_to_leave(overlay: str) -> None:
    made = pods(overlay)
    peer = made["peers"]["containers"][0]
    assert not unknown(peer["args"])
    assert not unknown(made["create-job"]["containers"][0]["args"])
    given = dict(word.removeprefix("--").split("=", 1) for word in peer["args"] if "=" in word)
    assert float(given["grace"]) + 5 <= made["peers"]["terminationGracePeriodSeconds"]
    waits = float(given["wait-for-etcd"]) + float(given["wait-for-job"])
    probe = peer["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] > waits
    ports = {port["name"]: port["containerPort"] for port in peer["ports"]}
    assert given["metrics-listen"] == f"0.0.0.0:{ports['metrics']}"
    assert given["listen"] == f"0.0.0.0:{ports['peer']}"
    probes = {name: peer[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert probes == {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_is_root_or_can_become_it_or_writes_to_its_image(overlay: str) -> None:
    for pod in pods(overlay).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }


def test_a_job_counts_no_peer_that_was_asked_to_leave_and_fails_for_a_mistake() -> None:
    (peers,) = [
        found for found in rendered("job") if found["metadata"]["name"] == "peers" and found["kind"] == "Job"
    ]
    rules = peers["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["action"]: set(rule["onExitCodes"]["values"]) for rule in rules if "onExitCodes" in rule}
    assert codes == {"Ignore": {ExitCode.LEFT}, "FailJob": {ExitCode.USAGE, ExitCode.MODEL}}
    assert peers["spec"]["parallelism"] == peers["spec"]["completions"]


def test_each_claim_and_map_that_a_pod_names_is_made() -> None:
    objects = rendered("deployment")
    made = {(found["kind"], found["metadata"]["name"]) for found in objects}
    for pod in pods("deployment").values():
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made
        for source in pod["containers"][0].get("envFrom", []):
            assert ("ConfigMap", source["configMapRef"]["name"]) in made


@pytest.mark.needs("promtool")
def test_the_rule_of_the_autoscaler_counts_the_peers_that_a_deadline_needs() -> None:
    folder = FOLDER / "overlays" / "hpa"
    for words in (("check", "rules", "rules.yml", "deadline.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run(
            [program("promtool"), *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (scaler,) = [found for found in rendered("overlays/hpa") if found["kind"] == "HorizontalPodAutoscaler"]
    metric = scaler["spec"]["metrics"][0]["external"]["metric"]["name"]
    assert f"record: {metric}" in (folder / "rules.yml").read_text()
    assert all(
        "replicas" not in found["spec"] for found in rendered("overlays/hpa") if found["kind"] == "Deployment"
    )
