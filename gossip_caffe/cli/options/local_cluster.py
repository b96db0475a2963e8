"""Options and signals that all commands share which run a cluster on this machine."""

# ruff: noqa: PLC0415 - heavy modules are imported by the command that needs them: --help and completion stay quick

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from gossip_caffe.cli.terminal.streams import never_wait_for_readers
from gossip_caffe.system.signals import Action, Effect, ending_signals, on_signal

if TYPE_CHECKING:
    from gossip_caffe.cluster.supervision.supervisor import Supervisor


def data_root_arguments(data_roots: Sequence[str]) -> tuple[str, ...]:
    """Return the ``--data-root`` arguments for each peer. Raises UsageError when one is not OLD=NEW."""
    from gossip_caffe.api.starting import training

    return training.data_root_arguments(data_roots)


def go_down_on_signals(
    supervisor: Supervisor,
    effects: Mapping[signal.Signals, Effect] = MappingProxyType({}),
    take_snapshot: Callable[[str], None] = lambda _: None,
) -> None:
    """Let the signals of ``ending_signals`` take the cluster down in good order. Call it within the event loop.

    A second Ctrl-C kills its peers. ``effects``: signals that have another effect than STOP; they are heard although
    they are ignored at the start. ``take_snapshot`` is called with the name of a signal of effect SNAPSHOT. From then
    on the cluster never waits for a reader of its output.
    """
    never_wait_for_readers()
    loop = asyncio.get_running_loop()

    def heard(number: signal.Signals) -> None:
        effect = effects.get(number, Effect.STOP)
        decision = on_signal(number, leaving=supervisor.going_down, effect=effect)
        if decision.action is Action.SNAPSHOT:
            take_snapshot(decision.reason)
        elif decision.action is not Action.NOTHING:
            supervisor.go_down(decision.reason)

    for number in {*ending_signals(), *effects}:
        loop.add_signal_handler(number, heard, number)


def effects_of(sigint_effect: str, sighup_effect: str | None) -> dict[signal.Signals, Effect]:
    """Read the options of ``train``. A SIGHUP that is ignored at the start stays ignored without its option."""
    effects = {signal.SIGINT: Effect(sigint_effect)}
    if sighup_effect is not None:
        effects[signal.SIGHUP] = Effect(sighup_effect)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        effects[signal.SIGHUP] = Effect.SNAPSHOT
    return effects
