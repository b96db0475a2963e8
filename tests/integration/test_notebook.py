"""The notebook of the examples, run without a browser: it trains, watches, kills a peer, loads and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster_run import DEADLINE_S, ROOT
from tests.tiny_job import write_job

pytestmark = pytest.mark.needs("caffe", "etcd", "nbclient")

NOTEBOOK = ROOT / "examples" / "notebook" / "train.ipynb"


def test_the_notebook_trains_watches_kills_a_peer_loads_the_consensus_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat  # noqa: PLC0415
    from nbclient import NotebookClient  # noqa: PLC0415

    job = write_job(tmp_path / "job", iterations=100_000, pace_ms=10)
    environment = {
        "SOLVER": str(job.solver),
        "NET": str(job.net),
        "GOSSIP_CAFFE_STATE": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
        "GLOG_minloglevel": "2",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=int(DEADLINE_S),
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    shown = [said for cell in notebook.cells for said in outputs(cell)]
    tables = [said for said in shown if "<table>" in said]
    assert any("<svg" in said and "p2" in said for said in tables), "the peers, with the chart below"
    assert any("p1: training → gone" in said for said in shown)
    assert any("accuracy" in said and "the mean of" in said for said in tables)
    assert any("('ip1', 'ip2')" in said for said in shown)
    assert ".caffemodel" in tables[-1], "the result"
    assert not any(cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)


def outputs(cell: Any) -> list[str]:
    """The texts that a cell shows, as HTML where there is any."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        found.append(str(data.get("text/html") or data.get("text/plain") or output.get("text", "")))
    return found
