"""One peer reads in order, unless the net says otherwise."""

from __future__ import annotations

import pytest

from gossip_caffe.job.shuffling import in_caffes_order
from tests.bare_job import bare_job


@pytest.mark.parametrize(
    ("layers", "shuffled"),
    [
        ((), False),
        (('layer { name: "a" type: "Data" data_param { source: "x" } }',), False),
        (('layer { type: "ImageData" image_data_param { shuffle: true } }',), True),
        (('layer { type: "ImageData" image_data_param { shuffle: false } }',), False),
        (('layer { type: "Data" }', 'layer { type: "HDF5Data" hdf5_data_param { shuffle: 1 } }'), True),
    ],
)
def test_one_peer_reads_in_order_unless_a_layer_shuffles(layers: tuple[str, ...], shuffled: bool) -> None:
    assert in_caffes_order(bare_job(source_texts=layers)).settings.shuffle is shuffled
