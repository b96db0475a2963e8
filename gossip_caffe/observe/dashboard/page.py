"""The page that a browser loads: its frame, with the newest parts in place, and its style and program beside it.

The page is whole without its program: then it loads itself again every few seconds. All that it asks for comes from the
server of this process, and its Content-Security-Policy lets the browser ask nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from gossip_caffe.observe.dashboard.cards import CARDS, Card
from gossip_caffe.observe.report.chart import shown
from gossip_caffe.observe.report.style import chart_style

EVENTS = "/events"
_HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer."""
_KEYS = (
    ("1 … 9", "go to that chart"),
    ("← →", "go to the chart before or after"),
    ("Enter", "make the chart as wide as the page, or narrow again"),
    ("t", "show the chart's values as a table"),
    ("p", "hold the page still, or let it go on"),
    ("d", "dark, light, or as the system has it"),
    ("?", "show these keys; Esc closes them"),
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#0072b2"/>'
    '<path d="M6 22l7-9 6 5 7-10" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round" '
    'stroke-linejoin="round"/></svg>'
)


def assets() -> dict[str, tuple[str, bytes]]:
    """The files of the page: path → (content type, content)."""
    return {
        "/page.css": (
            "text/css; charset=utf-8",
            (chart_style() + (_HERE / "page.css").read_text("utf-8")).encode(),
        ),
        "/page.js": ("text/javascript; charset=utf-8", (_HERE / "page.js").read_bytes()),
        "/icon.svg": ("image/svg+xml", _ICON.encode()),
    }


def page(title: str, parts: Mapping[str, str]) -> str:
    """The page with these parts; ``title``: the name of the run."""
    cards = "".join(_card(number, card, parts) for number, card in enumerate(CARDS, 1))
    keys = "".join(f"<dt><kbd>{escape(key)}</kbd></dt><dd>{escape(told)}</dd>" for key, told in _KEYS)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{shown(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="/icon.svg"><link rel="stylesheet" href="/page.css"><script src="/page.js"></script>
<noscript><meta http-equiv="refresh" content="5"></noscript></head>
<body><a class="skip" href="#card-peers">to the charts</a>
<header><div class="name"><h1>{shown(title)}</h1><div class="status" {_part("status", parts)}</div>
<nav><button id="hold" type="button" aria-pressed="false" title="hold the page still (p)">hold</button>
<button id="theme" type="button" title="dark, light, or as the system has it (d)">theme</button>
<button id="help" type="button" title="the keys of this page (?)">keys</button></nav></div>
<p id="lost" class="lost" role="alert" hidden>connection lost, trying again …</p>
<div class="done" {_part("progress", parts)}</div></header>
<main><dl class="tiles" {_part("tiles", parts, "dl")}
<div class="cards">{cards}{_news(parts)}</div></main>
<footer>Drawn by gossip-caffe from the event logs on this machine. <kbd>?</kbd> shows the keys.</footer>
<p id="said" class="unseen" aria-live="polite"></p><div id="tip" class="tip" hidden></div>
<dialog id="keys" aria-label="Keys"><h2>Keys</h2><dl>{keys}</dl><form method="dialog"><button>close</button></form>
</dialog></body></html>
"""


def _part(name: str, parts: Mapping[str, str], tag: str = "div") -> str:
    """The rest of an element that holds a part: its attribute, its content, and the end of a ``tag`` but a div."""
    end = "" if tag == "div" else f"</{tag}>"
    return f'data-part="{name}">{parts.get(name, "")}{end}'


def _card(number: int, card: Card, parts: Mapping[str, str]) -> str:
    wide = " wide" if card.is_wide else ""
    return (
        f'<section class="card{wide}" id="card-{card.name}" tabindex="0" aria-labelledby="title-{card.name}">'
        f'<h2 id="title-{card.name}">{escape(card.title)} <kbd>{number}</kbd></h2>'
        f'<p class="told">{escape(card.told)}</p><div class="plot" {_part(card.name, parts)}</div>'
        f'<details><summary>as a table</summary><div class="scroll" {_part(f"{card.name}-table", parts)}</div>'
        "</details></section>"
    )


def _news(parts: Mapping[str, str]) -> str:
    number = len(CARDS) + 1
    return (
        '<section class="card" id="card-news" tabindex="0" aria-labelledby="title-news">'
        f'<h2 id="title-news">What happened <kbd>{number}</kbd></h2><p class="told">The newest first.</p>'
        f'<div class="news" {_part("news", parts)}</div></section>'
    )
