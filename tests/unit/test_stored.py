"""Whatever stands in the store, reading it gives a value of the right types or a ValueError, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.errors import StoreError
from gossip_caffe.json_records import needed, read_object
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest, Output

WHOLE: dict[Callable[[bytes], Any], Any] = {
    PeerRecord.from_json: PeerRecord("p0", "1f", "here:1", "here", 1, "training", weight=2.5),
    PeerStatus.from_json: PeerStatus("p0", "training", loss=0.5, tested={"a": 1}),
    Announcement.from_json: Announcement("c", "d", 5, 1.5, {"p0": "here:1"}, score=0.5),
    ConsensusTest.from_json: ConsensusTest(1, 2, (Output("accuracy", (0.5, None), 2),)),
}
BEYOND = st.integers(min_value=10**308, max_value=10**320) | st.just(10**400) | st.just(-(10**1000))
"""No float can be made of them: Python's JSON reads them all the same."""
NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("read", WHOLE, ids=lambda read: str(read.__qualname__))
def test_what_was_written_is_read_as_it_was(read: Callable[[bytes], Any]) -> None:
    whole = WHOLE[read]
    assert read(whole.to_json()) == whole
    newer = {**json.loads(whole.to_json()), "of_a_newer_version": 1}
    if read.__qualname__ != "ConsensusTest.from_json":
        assert read(json.dumps(newer).encode()) == whole


@pytest.mark.parametrize("read", WHOLE, ids=lambda read: str(read.__qualname__))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_whole_number_beyond_all_floats_is_refused_wherever_it_stands(
    read: Callable[[bytes], Any], data: st.DataObject
) -> None:
    record = json.loads(WHOLE[read].to_json())
    field = data.draw(st.sampled_from(sorted(record)))
    record[field] = data.draw(BEYOND | st.lists(BEYOND, min_size=1, max_size=2))
    with pytest.raises(ValueError, match=r"digits|bytes"):
        read(json.dumps(record).encode())


@pytest.mark.parametrize("read", WHOLE, ids=lambda read: str(read.__qualname__))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_field_of_another_type_or_none_is_refused_or_harmless(
    read: Callable[[bytes], Any], data: st.DataObject
) -> None:
    record = json.loads(WHOLE[read].to_json())
    field = data.draw(st.sampled_from(sorted(record)))
    if data.draw(st.booleans()):
        del record[field]
    else:
        record[field] = data.draw(NOISE)
    try:
        made = read(json.dumps(record).encode())
    except ValueError:
        return
    whole = asdict(WHOLE[read])
    for name, value in asdict(made).items():
        if name in {"peer", "state", "address", "zone", "checkpoint", "digest", "fingerprint"}:
            assert isinstance(value, str), name
        elif isinstance(whole[name], (int, float)):
            assert isinstance(value, (int, float, type(None))), name


@pytest.mark.parametrize("read", WHOLE, ids=lambda read: str(read.__qualname__))
@given(noise=st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_noise_is_refused(read: Callable[[bytes], Any], noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(noise)


@pytest.mark.parametrize("value", [b"[" * 100_000, b"3", b"null", b"[]", b"\xff", b"", b'"x"', b"{"])
def test_what_is_no_object_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_object(value)


@pytest.mark.parametrize("weight", ["NaN", "-1", "1e999"])
def test_a_weight_with_which_nobody_can_plan_is_refused(weight: str) -> None:
    record = WHOLE[PeerRecord.from_json].to_json().decode().replace("2.5", weight)
    with pytest.raises(ValueError, match="weight"):
        PeerRecord.from_json(record.encode())


@pytest.mark.parametrize("value", [b"", b"{}", b'{"epochs":"3"}', b'{"epochs":true}', b"\xff"])
def test_what_nobody_can_go_on_without_is_named_with_its_key(value: bytes) -> None:
    with pytest.raises(StoreError, match="/j/folded"):
        needed("/j/folded", value, "epochs", int)
    assert needed("/j/folded", b'{"epochs":3}', "epochs", int) == 3
