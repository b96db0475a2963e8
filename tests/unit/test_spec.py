"""A job's spec and its settings."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.errors import UsageError
from gossip_caffe.job.spec.chunking import choose_chunk_records
from gossip_caffe.job.spec.spec import (
    DataSpec,
    JobSettings,
    JobSpec,
    NetTest,
    RateSchedule,
    SourceSpec,
    TopSpec,
    TransformSpec,
    with_overrides,
)

DATA = DataSpec(
    sources=(
        SourceSpec(
            layer="data",
            kind="lmdb",
            path="/data/train",
            tops=(TopSpec("data", (1, 28, 28)), TopSpec("label", ())),
            records=1000,
            chunk_keys=("30", "31"),
            transform=TransformSpec(scale=0.00390625, mean_values=(104.0, 117.0)),
        ),
    ),
    records=1000,
    chunk_records=64,
    batch_records=32,
)
SPEC = JobSpec(
    name="digits",
    solver_text="net: 'é'",
    train_net_text="layer {}",
    solver_for_peer="train_net_param {}",
    tests=(NetTest("layer {}", 5, 0, ("short",)),),
    solver_type="SGD",
    iter_size=2,
    budget_samples=6400,
    data=DATA,
    schedule=RateSchedule("multistep", 0.1, gamma=0.1, stepvalues=(10, 20), max_iter=100),
    settings=JobSettings(warmup=0.0),
)


def test_a_spec_survives_the_store() -> None:
    assert JobSpec.from_json(SPEC.to_json()) == SPEC
    assert SPEC.samples_per_iteration == 64


def test_an_integer_stands_for_a_float_and_a_missing_field_with_a_default_for_its_default() -> None:
    record = json.loads(SPEC.to_json())
    record["schedule"]["base_lr"] = 1
    del record["settings"]["prefetch_batches"]
    read = JobSpec.from_json(json.dumps(record).encode())
    assert read.schedule.base_lr == 1.0
    assert read.settings.prefetch_batches == JobSettings().prefetch_batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "job.name is a int, not a str"),
        ({"iter_size": True}, "job.iter_size is a bool, not a int"),
        ({"data": []}, "job.data is no object"),
        ({"format": 99}, "another version"),
        (
            {"of_later": 1},
            "job.of_later is unknown to this version of gossip-caffe; install here the version that",
        ),
    ],
)
def test_a_field_of_a_wrong_type_is_named(change: dict[str, object], message: str) -> None:
    record = json.loads(SPEC.to_json()) | change
    with pytest.raises(UsageError, match=message):
        JobSpec.from_json(json.dumps(record).encode())


def test_a_setting_of_a_newer_version_is_refused_and_not_left_out() -> None:
    record = json.loads(SPEC.to_json())
    record["settings"]["of_later"] = True
    with pytest.raises(UsageError, match=re.escape("job.settings.of_later is unknown to this version")):
        JobSpec.from_json(json.dumps(record).encode())


def test_missing_and_nested_fields_are_named_by_their_path() -> None:
    record = json.loads(SPEC.to_json())
    record["data"]["sources"][0]["tops"][1]["shape"] = "none"
    with pytest.raises(UsageError, match=re.escape("job.data.sources[0].tops[1].shape is no list")):
        JobSpec.from_json(json.dumps(record).encode())
    del record["data"]
    with pytest.raises(UsageError, match=re.escape("job.data is missing")):
        JobSpec.from_json(json.dumps(record).encode())
    with pytest.raises(UsageError, match="no JSON"):
        JobSpec.from_json(b"{")


def test_a_fingerprint_is_of_everything_but_the_name_and_who_created_it() -> None:
    assert dataclasses.replace(SPEC, name="other").fingerprint == SPEC.fingerprint
    again = dataclasses.replace(SPEC, creation="another time")
    assert again.fingerprint == SPEC.fingerprint
    assert again.identity != SPEC.identity
    assert dataclasses.replace(SPEC, ranks=4).fingerprint == SPEC.fingerprint, (
        "--peers 3 goes on with --peers 4"
    )
    assert JobSpec.from_json(SPEC.to_json()).fingerprint == SPEC.fingerprint
    settings = dataclasses.replace(SPEC.settings, seed=2)
    for other in (
        dataclasses.replace(SPEC, settings=dataclasses.replace(SPEC.settings, layer_ranks=4)),
        dataclasses.replace(SPEC, settings=settings),
        dataclasses.replace(SPEC, data=dataclasses.replace(DATA, records=999)),
        dataclasses.replace(SPEC, train_net_text="layer { }"),
    ):
        assert other.fingerprint != SPEC.fingerprint


def test_settings_are_given_as_text() -> None:
    given_settings = with_overrides(
        JobSettings(),
        {"exchange_every_iterations": "4", "codec": "float32", "warmup": "0.1", "shuffle": "false"},
    )
    assert given_settings == JobSettings(
        exchange_every_iterations=4, codec="float32", warmup=0.1, shuffle=False
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "exchange_every",
            "4",
            "there is no setting 'exchange_every'; known settings: bytes_budget, cadence, cadence_distance",
        ),
        ("exchange_every_iterations", "4.5", "--set exchange_every_iterations=4.5: not a int"),
        ("exchange_every_iterations", "0", "out of range; give a value from 1 to"),
        ("warmup", "nan", "out of range"),
        ("codec", "int2", "unknown; choose one of float32, float16"),
        ("shuffle", "maybe", "--set shuffle=maybe: not a bool"),
    ],
)
def test_a_bad_setting_is_one_line_with_what_it_takes(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        with_overrides(JobSettings(), {name: text})
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.integers(1, 10**8), st.integers(1, 1024), st.integers(1, 8))
def test_chunks_are_whole_iterations_and_about_four_hundred(records: int, batch: int, iter_size: int) -> None:
    chunk = choose_chunk_records(records, batch, iter_size, 100 * records)
    assert chunk >= batch
    assert chunk % (batch * iter_size) == 0
    chunks = -(-records // chunk)
    assert chunks <= 601
    if records >= 400 * batch * iter_size:
        assert chunks >= 266


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 4), st.integers(1, 10**10))
def test_a_job_has_no_more_chunks_than_etcd_should_be_told_of_and_an_epoch_enough_to_share(
    records: int, batch: int, iter_size: int, budget: int
) -> None:
    chunk = choose_chunk_records(records, batch, iter_size, budget)
    usual = choose_chunk_records(records, batch, iter_size, 0)
    iteration = batch * iter_size
    assert chunk >= usual
    assert chunk % iteration == 0
    if chunk > usual:
        assert records // chunk >= 16
        assert chunk <= budget / 100_000 + iteration
    assert budget / chunk <= 100_000 or records / (chunk + iteration) < 16


def test_a_small_data_set_that_is_gone_through_thousands_of_times_has_larger_chunks() -> None:
    assert choose_chunk_records(1437, 16, 1, 1437 * 100) == 16
    assert choose_chunk_records(1437, 16, 1, 1437 * 2_000) == 32
    assert choose_chunk_records(1437, 16, 1, 1437 * 100_000) == 80
