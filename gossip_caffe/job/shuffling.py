"""The default order in which a job's chunks are trained."""

from __future__ import annotations

import dataclasses

from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.spec.spec import JobSpec

_PARAMS = ("image_data_param", "hdf5_data_param")


def in_caffes_order(spec: JobSpec) -> JobSpec:
    """The job for a single peer that trains like plain Caffe: records in order, unless a layer asks for a shuffle.

    Several peers need chunks that are alike at all times, whatever the order of the data; so this is for one peer
    only.
    """
    if any(map(_shuffles, spec.source_texts)):
        return spec
    return dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, shuffle=False))


def _shuffles(layer_text: str) -> bool:
    (layer,) = Document(layer_text, "layer").root.messages("layer")
    params = (layer.message(name) for name in _PARAMS)
    return any(param is not None and param.boolean("shuffle") for param in params)
