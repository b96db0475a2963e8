"""Where things stand in the store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.membership.keys import JobKeys

KEYS = JobKeys("job")
chunk_ids = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 99_999_999)))


@given(owned=chunk_ids, done=chunk_ids, foreign=st.lists(st.text()))
def test_the_ledger_is_read_from_its_keys_and_what_is_no_such_key_is_left_out(
    owned: set[tuple[int, int]], done: set[tuple[int, int]], foreign: list[str]
) -> None:
    keys = [KEYS.claim(*chunk) for chunk in owned] + [KEYS.done_mark(*chunk) for chunk in done]
    keys += (
        [KEYS.ledger + name for name in foreign] + [key + "x" for key in keys] + [key[:-1] for key in keys]
    )
    for read, written in zip(KEYS.read_chunks(sorted(keys)), (owned, done), strict=True):
        assert {(epoch, chunk) for epoch, chunks in read.items() for chunk in chunks} == written
    for epoch, chunk in owned:
        assert KEYS.read_ledger(KEYS.claim(epoch, chunk)) == (False, epoch, chunk)
