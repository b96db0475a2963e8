"""A live chart of a training, for notebooks; elsewhere it prints lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from gossip_caffe.api.values.html import text
from gossip_caffe.api.values.views import Status
from gossip_caffe.observe.report.chart import Series, lines

LINE_EVERY_S = 5.0
_STYLE = (
    "<style>.gossip-caffe svg{max-width:960px;width:100%;font:11px sans-serif}"
    ".gossip-caffe .axis{stroke:#888}.gossip-caffe .rule{stroke:#ddd}.gossip-caffe text{fill:#666}"
    ".gossip-caffe .legend span{margin-right:1em}"
    ".gossip-caffe .legend i{display:inline-block;width:1em;height:.6em;margin-right:.3em}</style>"
)


def chart(statuses: Sequence[Status]) -> str:
    """Return a chart of the loss and of the speed over the iterations, as HTML; "" while there is nothing to draw."""
    losses = [(float(status.iteration), status.loss) for status in statuses if status.loss is not None]
    speeds = [(float(status.iteration), status.samples_per_s) for status in statuses if status.samples_per_s]
    drawn = [
        lines(name, [Series(name, points)], "iteration", height=170)
        for name, points in (("loss", losses), ("samples/s", speeds))
    ]
    return f'<div class="gossip-caffe">{_STYLE}{"".join(drawn)}</div>' if any(drawn) else ""


def page(statuses: Sequence[Status]) -> str:
    """Return the newest status as a table of peers, with the chart below, as HTML."""
    if not statuses:
        return f"<p>{text('the peers start')}</p>"
    return statuses[-1]._repr_html_() + chart(statuses)


class LiveChart:
    """A table of the peers and a chart of the loss: ``gc.train(…, on_status=gc.LiveChart())``.

    It is drawn again with each status. In a notebook it draws in the cell in which it is made. Without IPython, it
    prints a line every LINE_EVERY_S.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.statuses: list[Status] = []
        self._say = say
        self._said_at = float("-inf")
        self._handle = _display(page(()))

    def __call__(self, status: Status) -> None:
        """Draw a status."""
        self.statuses.append(status)
        if self._handle is not None:
            self._handle.update(_html(page(self.statuses)))
        elif time.monotonic() - self._said_at >= LINE_EVERY_S or status.finished:
            self._said_at = time.monotonic()
            self._say(status.words())

    def _repr_html_(self) -> str:
        return page(self.statuses)


def _display(content: str) -> Any:
    """Show HTML in a notebook. Returns a handle by which it is replaced; None outside of notebooks."""
    try:
        from IPython import get_ipython  # noqa: PLC0415 - it may be missing
        from IPython.display import display  # noqa: PLC0415
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return display(_html(content), display_id=True)


def _html(content: str) -> Any:
    from IPython.display import HTML  # noqa: PLC0415

    return HTML(content)
