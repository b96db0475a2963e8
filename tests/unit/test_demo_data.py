"""The demonstration's data, prototxts and script."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.demo import digits, model, script
from gossip_caffe.wire import caffe_wire_pb2

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def whole() -> digits.Digits:
    return digits.load_digits()


def test_every_digit_is_in_the_train_or_the_test_set_and_in_one_only(whole: digits.Digits) -> None:
    numbered = digits.Digits(whole.images, np.arange(len(whole)))
    train, test = digits.split(numbered, seed=3)
    assert (len(train), len(test)) == (digits.TRAIN_RECORDS, digits.TEST_RECORDS)
    assert sorted([*train.labels, *test.labels]) == list(range(len(whole)))


def test_the_split_is_shuffled_and_its_seed_decides_it(whole: digits.Digits) -> None:
    first, again, other = (digits.split(whole, seed)[0].labels for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, whole.labels[: len(first)])


def test_the_lmdbs_hold_the_records_as_caffe_reads_them(whole: digits.Digits, tmp_path: Path) -> None:
    digits.write_digits(tmp_path, seed=1)
    expected, _ = digits.split(whole, 1)
    with (
        lmdb.open(str(tmp_path / "train_lmdb"), readonly=True) as environment,
        environment.begin() as transaction,
    ):
        records = [caffe_wire_pb2.Datum.FromString(value) for _, value in transaction.cursor()]
    assert len(records) == digits.TRAIN_RECORDS
    assert {(record.channels, record.height, record.width) for record in records} == {(1, 8, 8)}
    assert [record.label for record in records] == expected.labels.tolist()
    assert records[7].data == expected.images[7].tobytes()
    assert max(max(record.data) for record in records) == digits.PIXEL_MAX


def test_a_second_write_replaces_the_first(whole: digits.Digits, tmp_path: Path) -> None:
    for count in (5, 3):
        few = digits.Digits(whole.images[:count], whole.labels[:count])
        digits.write_lmdb(tmp_path / "db", digits.datums(few))
    with lmdb.open(str(tmp_path / "db"), readonly=True) as environment:
        assert environment.stat()["entries"] == 3


def test_the_test_set_is_measured_whole() -> None:
    assert model.TEST_BATCH * model.TEST_ITER == digits.TEST_RECORDS


def test_each_peer_of_five_starts_a_hundred_exchanges() -> None:
    assert model.iterations(model.EPOCHS) / 5 / 8 >= 100


def test_the_prototxts_of_the_example_are_those_of_the_demonstration() -> None:
    assert (EXAMPLE / "train_val.prototxt").read_text() == model.net_text("examples/digits")
    assert (EXAMPLE / "solver.prototxt").read_text() == model.solver_text(
        "examples/digits/train_val.prototxt",
        max_iter=model.iterations(model.EPOCHS),
        seed=1,
        snapshot_prefix="examples/digits/single",
    )


def test_the_prototxts_name_their_data_by_absolute_path(tmp_path: Path) -> None:
    files = model.write_model(tmp_path, epochs=2, seed=5)
    assert f'source: "{tmp_path.resolve()}/train_lmdb"' in files.net.read_text()
    assert f"max_iter: {model.iterations(2)}\n" in files.solver.read_text()
    assert "random_seed: 5\n" in files.solver.read_text()


def state(
    progress: float, *, training: tuple[str, ...] = ("p0", "p1", "p2", "p3"), **done: bool
) -> script.DemoState:
    return script.DemoState(progress, training, **done)


def test_a_peer_joins_at_a_third_and_one_is_killed_at_half() -> None:
    assert isinstance(script.next_action(state(0.32)), script.Wait)
    assert isinstance(script.next_action(state(0.34)), script.Join)
    assert isinstance(script.next_action(state(0.45, joined=True)), script.Wait)
    action = script.next_action(state(0.5, joined=True))
    assert isinstance(action, script.Kill)
    assert action.peer in {"p1", "p2"}


def test_the_join_comes_first_even_when_half_is_already_trained() -> None:
    assert isinstance(script.next_action(state(0.7)), script.Join)


@given(st.floats(0, 1), st.booleans())
def test_the_last_training_peer_is_never_killed(progress: float, joined: bool) -> None:
    assert not isinstance(script.next_action(state(progress, training=("p0",), joined=joined)), script.Kill)


@given(st.floats(0, 1))
def test_nobody_is_killed_twice(progress: float) -> None:
    assert isinstance(script.next_action(state(progress, joined=True, killed=True)), script.Wait)
