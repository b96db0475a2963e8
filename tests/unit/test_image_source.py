"""Pictures in files: decoded as OpenCV does, named by the list's line when they cannot be."""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from gossip_caffe.data.sources.image_source import ImageDataSet, ImageSource
from gossip_caffe.errors import DataError
from gossip_caffe.job.spec.spec import ImageSpec, SourceSpec, TopSpec, TransformSpec

TOPS = (TopSpec("data", ()), TopSpec("label", ()))


def write(folder: Path, sizes: tuple[tuple[int, int], ...] = ((6, 8),) * 4) -> str:
    """Noise in PNG files, whose names hold a space; each picture's number is its label."""
    lines = []
    for number, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"a {number}.png"), pixels)
        lines.append(f"a {number}.png {number}\n")
    listed = folder / "train.txt"
    listed.write_text("".join(lines))
    return str(listed)


def spec_of(path: str, image: ImageSpec | None = None, crop: int = 0) -> SourceSpec:
    folder = str(Path(path).parent)
    transform = TransformSpec(crop_size=crop)
    return SourceSpec(
        "data", "images", path, TOPS, image=image or ImageSpec(), folder=folder, transform=transform
    )


def opened(spec: SourceSpec) -> ImageSource:
    data = ImageDataSet(spec)
    return ImageSource(dataclasses.replace(spec, records=data.records, digest=data.digest), 4, seed=1)


def test_pictures_come_as_opencv_reads_them_channels_first(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = ImageDataSet(spec_of(path))
    assert (data.records, data.shapes, data.chunk_keys(2)) == (4, ((3, 6, 8), ()), ())
    out = [np.empty((2, 3, 6, 8), np.float32), np.empty(2, np.float32)]
    opened(spec_of(path)).fill(0, 1, 3, out)
    assert out[1].tolist() == [1, 2]
    for row, number in enumerate((1, 2)):
        expected = np.asarray(cv2.imread(str(tmp_path / f"a {number}.png")))
        assert np.array_equal(out[0][row], expected.transpose(2, 0, 1))


def test_pictures_are_resized_and_grayed_as_the_layer_says(tmp_path: Path) -> None:
    path = write(tmp_path, ((6, 8), (9, 5)))
    image = ImageSpec(height=4, width=7, color=False)
    (_, record) = opened(spec_of(path, image)).read(0, 2)
    gray = cv2.imread(str(tmp_path / "a 1.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(record.values, cv2.resize(np.asarray(gray), (7, 4))[None])


def test_the_root_folder_stands_before_each_name(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    listed = Path(write(inside)).rename(tmp_path / "train.txt")
    assert ImageDataSet(spec_of(str(listed), ImageSpec(root_folder=f"{inside}/"))).records == 4
    assert ImageDataSet(spec_of(str(listed), ImageSpec(root_folder="inside/"))).records == 4


def test_pictures_of_several_sizes_need_a_crop_or_a_size(tmp_path: Path) -> None:
    path = write(tmp_path, ((6, 8), (9, 5)))
    out = [np.empty((2, 3, 6, 8), np.float32), np.empty(2, np.float32)]
    with pytest.raises(DataError, match=r"train.txt:2, .*a 1.png: 3×9×5, but the data set began with 3×6×8"):
        opened(spec_of(path)).fill(0, 0, 2, out)
    cropped = [np.empty((2, 3, 4, 4), np.float32), np.empty(2, np.float32)]
    opened(spec_of(path, crop=4)).fill(0, 0, 2, cropped)


def test_what_cannot_be_read_is_named_with_the_lists_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "a 2.png").write_bytes(b"no picture")
    reader = opened(spec_of(path)).read(1, 4)
    assert next(reader).label == 1
    with pytest.raises(DataError, match=r"train.txt:3, .*a 2.png: not a picture that OpenCV reads"):
        next(reader)
    (tmp_path / "a 0.png").unlink()
    with pytest.raises(DataError, match=r"train.txt:1, .*a 0.png: cannot be read"):
        ImageDataSet(spec_of(path))
    Path(path).write_text("a 1.png 0\na.png\n")
    with pytest.raises(DataError, match=r"train.txt:2: 'a.png' does not end with a label"):
        ImageDataSet(spec_of(path))


def test_another_list_than_the_job_was_made_with_is_refused(tmp_path: Path) -> None:
    spec = spec_of(write(tmp_path))
    digest = ImageDataSet(spec).digest
    with Path(spec.path).open("a") as listed:
        listed.write("a 0.png 1\n")
    with pytest.raises(DataError, match="is not the job's list"):
        ImageSource(dataclasses.replace(spec, records=4, digest=digest), 4, seed=1)


def test_a_label_is_a_whole_number_also_with_a_point(tmp_path: Path) -> None:
    path = write(tmp_path)
    Path(path).write_text("a 0.png 3.0\na 1.png -1\r\n")
    assert [record.label for record in opened(spec_of(path)).read(0, 2)] == [3, -1]
    for label in ("0.7", "1_0", "one"):
        Path(path).write_text(f"a 0.png {label}\n")
        with pytest.raises(DataError, match=r"train.txt:1: .* does not end with a label"):
            ImageDataSet(spec_of(path))


def test_a_picture_that_claims_an_impossible_size_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    picture = tmp_path / "a 0.png"
    content = bytearray(picture.read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    picture.write_bytes(content)
    with pytest.raises(DataError, match=r"train.txt:1, .*a 0.png: not a picture that OpenCV reads"):
        ImageDataSet(spec_of(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "gb18030"])
def test_names_in_a_list_are_bytes(tmp_path: Path, encoding: str) -> None:
    names = [f"F\xf6to {index}.png".encode(encoding.removesuffix("-sig")) for index in range(3)]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(_picture())
    lines = b"".join(b"%s %d\n" % (name, index) for index, name in enumerate(names))
    mark = b"\xef\xbb\xbf" if encoding == "utf-8-sig" else b""
    (tmp_path / "list.txt").write_bytes(mark + lines)
    spec = SourceSpec(
        "data", "images", str(tmp_path / "list.txt"), (TopSpec("data", ()), TopSpec("label", ()))
    )
    spec = dataclasses.replace(spec, digest=ImageDataSet(spec).digest, records=3)
    source = ImageSource(spec, 1, 1)
    assert [record.label for record in source.read(0, 3)] == [0, 1, 2]
    source.where(0).encode()  # it can be printed


def test_a_list_in_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a.png 1\n".encode("utf-16"))
    spec = SourceSpec(
        "data", "images", str(tmp_path / "list.txt"), (TopSpec("data", ()), TopSpec("label", ()))
    )
    with pytest.raises(DataError, match="UTF-16"):
        ImageDataSet(spec)


def _picture() -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
