"""The paths of a job on a machine where the job's data is in another folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gossip_caffe.errors import UsageError
from gossip_caffe.job.prototxts.nets import layers_of
from gossip_caffe.job.prototxts.prototxt import Document, edited
from gossip_caffe.job.prototxts.rewriting import quoted
from gossip_caffe.job.spec.spec import FileSpec, JobSpec, NetTest, SourceSpec

_PARAMS = ("data_param", "transform_param", "hdf5_data_param", "image_data_param", "window_data_param")
_NAMES = ("source", "mean_file")


@dataclass(frozen=True, slots=True)
class DataRoot:
    """Paths that begin with the folder ``old`` begin with ``new`` on this machine."""

    old: str
    new: str

    @classmethod
    def parse(cls, text: str) -> DataRoot:
        """Parse "OLD=NEW". Raises UsageError for any other form, or when OLD is not absolute."""
        old, equals, new = text.partition("=")
        if not equals or not old.startswith("/") or not new:
            raise UsageError(
                f"--data-root {text}: not OLD=NEW", remedy="give for example --data-root /data=/mnt/data"
            )
        return cls(old.rstrip("/"), new.rstrip("/") or "/")


def relocated(spec: JobSpec, roots: Sequence[DataRoot]) -> JobSpec:
    """The job with all paths of its files on this machine; of several roots that match, the longest ``old`` is used.

    The paths are those of data, means, test data and first weights. The result has another fingerprint: use it only to
    read files.
    """
    if not roots:
        return spec
    ordered = sorted(roots, key=lambda root: len(root.old), reverse=True)

    def here(path: str) -> str:
        for root in ordered:
            if path == root.old or path.startswith(f"{root.old}/"):
                return (root.new.rstrip("/") + path[len(root.old) :]) or "/"
        return path

    start = dataclasses.replace(
        spec.start,
        weights=tuple(_file(file, here) for file in spec.start.weights),
        state=_file(spec.start.state, here),
    )
    sources = tuple(_source(source, here) for source in spec.data.sources)
    return dataclasses.replace(
        spec,
        data=dataclasses.replace(spec.data, sources=sources),
        tests=tuple(_test(test, here) for test in spec.tests),
        start=start,
    )


def _file(file: FileSpec, here: Callable[[str], str]) -> FileSpec:
    return dataclasses.replace(file, path=here(file.path))


def _source(source: SourceSpec, here: Callable[[str], str]) -> SourceSpec:
    transform = dataclasses.replace(source.transform, mean_file=here(source.transform.mean_file))
    image = dataclasses.replace(source.image, root_folder=here(source.image.root_folder))
    return dataclasses.replace(
        source, path=here(source.path), folder=here(source.folder), transform=transform, image=image
    )


def _test(test: NetTest, here: Callable[[str], str]) -> NetTest:
    fed = tuple(dataclasses.replace(layer, source=_source(layer.source, here)) for layer in test.fed)
    text = with_paths(Document(test.text, "test net"), here, (*_NAMES, "root_folder"))
    return dataclasses.replace(test, text=text, fed=fed)


def with_paths(net: Document, resolve: Callable[[str], str], fields: Sequence[str] = _NAMES) -> str:
    """The net's text with the paths in its data layers' ``fields`` replaced."""
    edits = []
    for layer in layers_of(net.root):
        for name in _PARAMS:
            message = layer.fields.message(name)
            for entry in (
                () if message is None else (found for field in fields for found in message.all(field))
            ):
                path = resolve(net.scalar_of(entry).text)
                edits.append((entry.start, entry.end, f"{entry.name}: {quoted(path)}"))
    return edited(net.text, edits)
