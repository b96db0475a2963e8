"""The parameters of an AnnotatedData layer: the pieces of pictures that it draws, and the boxes that it keeps."""

from __future__ import annotations

from gossip_caffe.job.prototxts.nets import Layer
from gossip_caffe.job.prototxts.prototxt import Document, TextMessage
from gossip_caffe.job.spec.spec import MOST_TRIALS, BoxesSpec, SamplerSpec

_EMITS = {"CENTER": "CENTER", "0": "CENTER", "MIN_OVERLAP": "MIN_OVERLAP", "1": "MIN_OVERLAP"}
_MEASURES = {"jaccard": "jaccard_overlap", "sample": "sample_coverage", "object": "object_coverage"}


def read_boxes(net: Document, layer: Layer) -> BoxesSpec:
    """Read ``annotated_data_param`` and ``emit_constraint``. Raises ModelError with the line of a wrong value."""
    param, transform = (layer.fields.message(name) for name in ("annotated_data_param", "transform_param"))
    emit = transform.message("emit_constraint") if transform is not None else None
    kept = _EMITS.get(emit.text("emit_type", "CENTER"), "") if emit is not None else ""
    if emit is not None and not kept:
        what = f"layer {layer.name!r}: emit_type {emit.text('emit_type')} is unknown"
        raise net.error(layer.place.start, what, "use CENTER or MIN_OVERLAP")
    given = param.messages("batch_sampler") if param is not None else ()
    samplers = tuple(
        _sampler(net, layer, sampler)
        for sampler in given
        # A sampler that does not begin at the original picture draws nothing.
        if sampler.boolean("use_original_image", default=True)
    )
    cropped = transform is not None and transform.integer("crop_size") > 0
    if not cropped and any(sampler.min_scale < 1 and sampler.max_trials for sampler in samplers):
        what = f"layer {layer.name!r}: a batch_sampler draws pieces of unlike sizes"
        raise net.error(layer.place.start, what, "give transform_param a crop_size, which makes them alike")
    return BoxesSpec(
        samplers,
        kept,
        emit.number("emit_overlap", 0.0) if emit is not None else 0.0,
    )


def _sampler(net: Document, layer: Layer, sampler: TextMessage) -> SamplerSpec:
    drawn, wanted = sampler.message("sampler"), sampler.message("sample_constraint")
    names = ("min_scale", "max_scale", "min_aspect_ratio", "max_aspect_ratio")
    least_scale, most_scale, least_aspect, most_aspect = (
        drawn.number(name, 1.0) if drawn is not None else 1.0 for name in names
    )
    if not (0 < least_scale <= most_scale <= 1 and 0 < least_aspect <= most_aspect):
        what = f"layer {layer.name!r}: a batch_sampler with scales {least_scale:g} to {most_scale:g} and "
        what += f"aspect ratios {least_aspect:g} to {most_aspect:g}"
        raise net.error(layer.place.start, what, "give 0 < min <= max, and scales up to 1")
    trials = sampler.integer("max_trials", 100)
    if not 0 <= trials <= MOST_TRIALS:
        what = f"layer {layer.name!r}: max_trials {trials}"
        raise net.error(layer.place.start, what, f"give 0 to {MOST_TRIALS:,}")
    measure, least, most = _constraint(wanted)
    # With max_sample: 0 given, Caffe draws nothing; without it, every accepted piece of max_trials.
    given = sampler.last("max_sample") is not None
    most_samples = sampler.integer("max_sample")
    return SamplerSpec(
        *(least_scale, most_scale, least_aspect, most_aspect),
        *(measure, least, most),
        most_samples,
        0 if given and not most_samples else trials,
    )


def _constraint(wanted: TextMessage | None) -> tuple[str, float, float]:
    """Return measure, least and most. Of several measures Caffe's loop holds a piece to the first alone."""
    if wanted is None:
        return "", 0.0, 2.0
    for measure, name in _MEASURES.items():
        if wanted.last(f"min_{name}") is not None or wanted.last(f"max_{name}") is not None:
            return measure, wanted.number(f"min_{name}", 0.0), wanted.number(f"max_{name}", 2.0)
    return "", 0.0, 2.0
