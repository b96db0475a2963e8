"""Caffe's command lines, as they stand in scripts and READMEs: each does the same here, or one line says what does."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip_caffe.cli.from_caffe.flags import Flag, split
from gossip_caffe.cli.from_caffe.words import COMMANDS, Translation, translated
from gossip_caffe.cli.main import cli
from gossip_caffe.errors import UsageError

SOLVER = {"option": "solver.prototxt"}
LINES: list[tuple[str, dict[str, Any]]] = [
    # training
    ("train --solver=solver.prototxt", SOLVER),
    ("train --solver=solver.prototxt --gpu=0", {**SOLVER, "gpus": "0"}),
    ("train -solver solver.prototxt", SOLVER),
    ("train -solver solver.prototxt -gpu 0", {**SOLVER, "gpus": "0"}),
    ("train -solver=solver.prototxt -gpu=0,1,2,3", {**SOLVER, "gpus": "0,1,2,3"}),
    ("train --solver=solver.prototxt --gpu=all", {**SOLVER, "gpus": "all"}),
    ("train --solver solver.prototxt --gpu all --log_dir=log", {**SOLVER, "log_file": "log/caffe.INFO"}),
    ("train -gpu 0 -solver solver.prototxt -log_dir ./log/", {"gpus": "0", "log_file": "log/caffe.INFO"}),
    ("train --solver=solver.prototxt --snapshot=n_iter_9.solverstate", {"resume": "n_iter_9.solverstate"}),
    ("train --solver=solver.prototxt --snapshot=n_iter_9.solverstate.h5", {"resume": "n_iter_9.solverstate.h5"}),
    ("train -solver solver.prototxt -snapshot out/net_iter_10.solverstate -gpu 1", {"gpus": "1"}),
    ("train --solver=solver.prototxt --weights=base.caffemodel", {"weights": "base.caffemodel"}),
    ("train -solver solver.prototxt -weights a.caffemodel,b.caffemodel", {"weights": "a.caffemodel,b.caffemodel"}),
    ("train --solver solver.prototxt --weights base.caffemodel -gpu 2", {"weights": "base.caffemodel", "gpus": "2"}),
    ("train --solver=solver.prototxt --logtostderr=1", SOLVER),
    ("train -logtostderr -solver solver.prototxt", SOLVER),
    ("train --alsologtostderr --solver=solver.prototxt -v 1", SOLVER),
    ("train --solver=solver.prototxt --nologtostderr -minloglevel 2", SOLVER),
    ("train -solver solver.prototxt -sighup_effect stop", {"sighup_effect": "stop"}),
    ("train --solver=solver.prototxt --sigint_effect=snapshot", {"sigint_effect": "snapshot"}),
    ("train --solver=solver.prototxt --stage=deploy,val --level=2", {"stage": "deploy,val", "level": 2}),
    ("train --solver=solver.prototxt --gpu=", {**SOLVER, "gpus": ""}),
    ("-gpu 0 train -solver solver.prototxt", {**SOLVER, "gpus": "0"}),
    ("train solver.prototxt --peers 4 --set seed=3", {"argument": "solver.prototxt", "peers": 4}),
    # testing
    ("test -model net.prototxt -weights a.caffemodel -gpu 0 -iterations 100", {"iterations": 100, "gpus": "0"}),
    ("test --model=net.prototxt --weights=a.caffemodel", {"model": "net.prototxt", "iterations": 50}),
    ("test -model=net.prototxt -weights=a.caffemodel -iterations=10 -stage=test", {"stage": "test", "iterations": 10}),
    ("test --model net.prototxt --weights a.caffemodel --level 1 -logtostderr", {"level": 1}),
    ("test -gpu all -model n.prototxt -weights w -log_dir log", {"gpus": "all", "log_file": "log/caffe.INFO"}),
    # timing
    ("time --model=deploy.prototxt --iterations=10", {"model": "deploy.prototxt", "iterations": 10, "phase": "TRAIN"}),
    ("time -model deploy.prototxt -gpu 0", {"gpus": "0", "iterations": 50}),
    ("time -model net.prototxt -phase TEST -iterations 5", {"phase": "TEST", "iterations": 5}),
    ("time --model=net.prototxt --phase=TRAIN --stage=a --level=0 -logtostderr=1", {"stage": "a"}),
    # the GPUs
    ("device_query -gpu 0", {"gpus": "0"}),
    ("device_query --gpu=all", {"gpus": "all"}),
    ("device_query", {"gpus": "all"}),
]  # fmt: skip

UNUSED = [
    ("train -solver solver.prototxt -model net.prototxt", "--model has no effect in 'train': the solver file names"),
    ("train -solver=solver.prototxt -iterations 1000", "max_iter in the solver file is the number of iterations"),
    ("train --solver=solver.prototxt --phase=TRAIN", "--phase has no effect in 'train': the TRAIN phase is trained"),
    ("train --solver=solver.prototxt -engine MKL2017", "a layer's own 'engine' field"),
    ("train --solver=solver.prototxt --param_server=mlsl", "peers need no parameter server; --peers N"),
    ("test -model n.prototxt -weights w -solver s.prototxt", "--model names the net; 'gossip-caffe evaluate'"),
    ("test -model net.prototxt -weights a.caffemodel -phase TEST", "the TEST phase is tested"),
    ("time -model net.prototxt -weights a.caffemodel", "the times do not depend on the weights"),
    ("time -model net.prototxt -forward_only", "a column for the forward pass alone"),
    ("device_query -gpu 0 -iterations 3", "only --gpu says which GPUs are shown"),
]  # fmt: skip

ANSWERED = [
    ("test -solver solver.prototxt -weights a.caffemodel", "give --model NET, or test the solver's nets with"),
    ("time -solver solver.prototxt", "time takes the net itself, not a solver file; give --model NET"),
    ("train --flagfile=flags.txt", "--flagfile is not read; write the flags"),
    ("train_net.bin solver.prototxt", "'gossip-caffe train SOLVER' trains"),
    ("finetune_net.bin solver.prototxt a.caffemodel", "'gossip-caffe train SOLVER --weights FILE' starts from"),
    ("test_net.bin net.prototxt a.caffemodel 100", "'gossip-caffe test --model NET --weights FILE' tests"),
    ("net_speed_benchmark.bin net.prototxt", "'gossip-caffe time --model NET' times"),
    ("upgrade_net_proto_text old.prototxt new.prototxt", "reads nets in the old formats as they are"),
    ("upgrade_solver_proto_text old.prototxt new.prototxt", "reads solvers in the old format"),
    ("extract_features a.caffemodel net.prototxt fc7 out 10 lmdb", "for pycaffe, which reads the values of any blob"),
]  # fmt: skip


def parsed(translation: Translation) -> dict[str, Any]:
    """What click makes of the words."""
    command = cli.get_command(click.Context(cli), translation.words[0])
    assert command is not None
    context = command.make_context(translation.words[0], list(translation.words[1:]))
    return {name: value if isinstance(value, int) else str(value) for name, value in context.params.items()}


@pytest.mark.parametrize(("line", "outcome"), LINES, ids=[line for line, _ in LINES])
def test_a_command_line_of_caffe_means_the_same_here(line: str, outcome: dict[str, Any]) -> None:
    translation = translated(shlex.split(line))
    assert not translation.notices
    assert outcome.items() <= parsed(translation).items()


@pytest.mark.parametrize(("line", "says"), UNUSED, ids=[line for line, _ in UNUSED])
def test_a_flag_without_effect_in_caffe_is_left_out_with_a_notice(line: str, says: str) -> None:
    translation = translated(shlex.split(line))
    assert len(translation.notices) == 1
    assert says in translation.notices[0]
    parsed(translation)


@pytest.mark.parametrize(("line", "says"), ANSWERED, ids=[line for line, _ in ANSWERED])
def test_a_word_that_only_caffe_has_is_answered_with_its_counterpart(line: str, says: str) -> None:
    with pytest.raises(UsageError) as answer:
        translated(shlex.split(line))
    assert says in str(answer.value)
    assert "\n" not in str(answer.value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "--version",
        "cluster up --solver s.prototxt -d",
        "evaluate --solver s --weights w",
        "job validate -h",
        "peer start --job train --gpu 0",
        "logs --format caffe",
    ],
)
def test_the_words_of_all_other_commands_stay_as_they_are(line: str) -> None:
    assert translated(line.split()) == Translation(tuple(line.split()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train -help", "train --help"),
        ("train -helpshort", "train --help"),
        ("train -h", "train -h"),
        ("train --version", "version"),
        ("train --solver a --log b --json", "train --solver a --log b --json"),
        ("train a --engine numpy", "train a --engine numpy"),
        ("train -solver", "train --solver"),
        ("test -- -model x", "test -- -model x"),
        ("time -undefined 3", "time -undefined 3"),
    ],
)
def test_help_and_words_that_caffe_does_not_know(line: str, words: str) -> None:
    assert translated(line.split()).words == tuple(words.split())


def test_a_flag_is_found_in_all_spellings_of_gflags() -> None:
    known = {"gpu": True, "logtostderr": False, "log_dir": True}
    words = ["-gpu", "0", "--gpu=1", "-logtostderr", "--nologtostderr", "--log-dir=d", "x", "-gpu"]
    assert split(words, known) == [
        Flag("gpu", "0", ("-gpu", "0")),
        Flag("gpu", "1", ("--gpu=1",)),
        Flag("logtostderr", None, ("-logtostderr",)),
        Flag("logtostderr", "false", ("--nologtostderr",)),
        Flag("log_dir", "d", ("--log-dir=d",)),
        "x",
        Flag("gpu", None, ("-gpu",)),
    ]


@given(
    st.sampled_from(COMMANDS),
    st.lists(
        st.sampled_from(["--solver", "s", "-gpu", "0", "-v", "1", "--json", "-x", "--", "=", "-=a", ""])
    ),
)
def test_what_was_translated_stays_the_same_when_it_is_translated_again(
    command: str, rest: list[str]
) -> None:
    try:
        once = translated([command, *rest])
    except UsageError:
        return
    assert translated(once.words).words == once.words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "convert_imageset --resize_height=256 --resize_width=256 --shuffle pics/ train.txt train_lmdb",
            "data create train_lmdb train.txt --root pics/ --skip-unreadable --resize-height 256 --resize-width 256 "
            "--shuffle",
        ),
        (
            "convert_imageset -gray=true -backend leveldb --shuffle=false / l.txt db -logtostderr",
            "data create db l.txt --root / --skip-unreadable --gray --backend leveldb",
        ),
        (
            "convert_imageset --encoded --encode_type=jpg -check_size / l.txt db",
            "data create db l.txt --root / --skip-unreadable --encoded --encode-type jpg --check-size",
        ),
        ("convert_imageset -help", "data create --help"),
        (
            "compute_image_mean -backend=lmdb train_lmdb mean.binaryproto",
            "data mean train_lmdb mean.binaryproto",
        ),
        ("compute_image_mean train_lmdb", "data mean train_lmdb"),
    ],
)
def test_the_tools_that_make_data_are_the_commands_of_data(line: str, words: str) -> None:
    assert translated(shlex.split(line)).words == tuple(words.split())


def test_a_data_tool_without_its_three_files_is_answered() -> None:
    with pytest.raises(UsageError, match="gossip-caffe data create DB LIST --root ROOTFOLDER/"):
        translated(["convert_imageset", "list.txt"])
