"""Optuna, an optional package: it is loaded where a study needs it, and a missing one is named in one line."""

from __future__ import annotations

import warnings

from gossip_caffe.errors import NotInstalled


def require_optuna() -> None:
    """Load Optuna, without its messages. Raises NotInstalled."""
    try:
        import optuna  # noqa: PLC0415 - an extra, and slow to load
    except ImportError:
        raise NotInstalled(
            "studies search with Optuna, which is not installed",
            name="optuna",
            remedy="run: pip install 'gossip-caffe[tune]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
