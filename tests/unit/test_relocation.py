"""A job's paths where the data is mounted elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from gossip_caffe.errors import UsageError
from gossip_caffe.job.relocation import DataRoot, relocated
from gossip_caffe.job.spec.spec import (
    FileSpec,
    ImageSpec,
    NetTest,
    SourceSpec,
    StartSpec,
    TopSpec,
    TransformSpec,
)
from tests.unit.test_spec import SPEC

TEST = """layer { name: "d" type: "Data" top: "data"  # kept
  data_param { source: "/data/test" batch_size: 3 } transform_param { mean_file: "/other/mean" } }
layer { name: "i" type: "ImageData" image_data_param { source: "/data/list" root_folder: "/data/images/" } }
"""


def moved(roots: list[str], path: str = "/data/train") -> str:
    source = SourceSpec("data", "lmdb", path, (TopSpec("data", (1,)),))
    spec = dataclasses.replace(SPEC, data=dataclasses.replace(SPEC.data, sources=(source,)))
    return relocated(spec, [DataRoot.parse(root) for root in roots]).data.sources[0].path


@pytest.mark.parametrize(
    ("roots", "path", "found"),
    [
        (["/data=/mnt/d"], "/data/train", "/mnt/d/train"),
        (["/data/=/mnt/d/"], "/data/train", "/mnt/d/train"),
        (["/data=/mnt/d"], "/data", "/mnt/d"),
        (["/data=/mnt/d"], "/database/train", "/database/train"),
        (["/data=/a", "/data/train=/b"], "/data/train/lmdb", "/b/lmdb"),
        (["/data/train=/b", "/data=/a"], "/data/test", "/a/test"),
        (["/=/mnt"], "/data/train", "/mnt/data/train"),
        (["/data=/"], "/data/train", "/train"),
        (["/data=relative"], "/data/train", "relative/train"),
        (["/data=/mnt"], "module:callable", "module:callable"),
        ([], "/data/train", "/data/train"),
    ],
)
def test_a_path_below_a_root_is_found_below_the_other(roots: list[str], path: str, found: str) -> None:
    assert moved(roots, path) == found


def test_everything_that_a_peer_reads_is_moved_and_nothing_else() -> None:
    source = SourceSpec(
        "data",
        "images",
        "/data/list",
        (TopSpec("data", (1,)),),
        transform=TransformSpec(mean_file="/data/mean"),
        image=ImageSpec(root_folder="/data/images/"),
        folder="/data",
    )
    spec = dataclasses.replace(
        SPEC,
        data=dataclasses.replace(SPEC.data, sources=(source,)),
        tests=(NetTest(TEST, 2),),
        start=StartSpec((FileSpec("/data/w", "a"),), FileSpec("/data/s", "b"), 3),
    )
    here = relocated(spec, [DataRoot("/data", "/mnt")])
    (found,) = here.data.sources
    assert (found.path, found.transform.mean_file) == ("/mnt/list", "/mnt/mean")
    assert (found.image.root_folder, found.folder) == ("/mnt/images/", "/mnt")
    assert here.tests[0].text == TEST.replace('"/data', '"/mnt')
    assert here.start == StartSpec((FileSpec("/mnt/w", "a"),), FileSpec("/mnt/s", "b"), 3)
    assert here.solver_for_peer == spec.solver_for_peer


@pytest.mark.parametrize("text", ["/data", "data=/mnt", "/data=", "=/mnt"])
def test_a_root_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not OLD=NEW; give for example"):
        DataRoot.parse(text)
