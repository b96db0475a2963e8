"""The style of the charts, as CSS for light and dark: a page includes it, and a chart itself holds no colour.

A page with a strict Content-Security-Policy allows no style attribute in its markup, so charts name classes alone.
"""

from __future__ import annotations

LINE_COLOURS = (
    ("#0072b2", "#4aa8e0"),
    ("#d98500", "#f0b040"),
    ("#009e73", "#2fc79a"),
    ("#c1121f", "#ff6b70"),
    ("#7b4fa3", "#b48ee0"),
    ("#2f9fd0", "#7fd0f5"),
    ("#8c564b", "#cf9c8f"),
    ("#5c6470", "#a5aebb"),
)
"""The colours of lines: (on a light page, on a dark page). A ninth line has the first colour again."""
KIND_COLOURS = {
    "joining": ("#cfd4db", "#4a5361"),
    "training": ("#6fa8d6", "#3f7fb5"),
    "draining": ("#a5cf92", "#5d8f4b"),
    "joined": ("#00875f", "#3ddba8"),
    "killed": ("#c1121f", "#ff5c63"),
    "left": ("#555c66", "#b3bac5"),
    "solver died": ("#d98500", "#ffb938"),
    "loader died": ("#8f7000", "#d6b93c"),
    "lease lost": ("#7b4fa3", "#c39bf0"),
    "owned": ("#58aede", "#3588b8"),
    "killed with chunks": ("#d6404b", "#e0525b"),
    "offered, applied": ("#2b8a6b", "#35a882"),
    "answered, applied": ("#8ecdb6", "#2a6a55"),
    "running": ("#6fa8d6", "#3f7fb5"),
    "complete": ("#00875f", "#3ddba8"),
    "pruned": ("#b9bfc8", "#5a6473"),
    "withdrawn": ("#b9bfc8", "#5a6473"),
    "refused": ("#e0a030", "#d29a3a"),
    "failed": ("#c1121f", "#e0525b"),
}
"""The colours of a bar or mark by its kind: (on a light page, on a dark page)."""
_INKS = {
    "ink": ("#1d2127", "#e8ebf0"),
    "quiet": ("#5b6470", "#9aa5b4"),
    "rule": ("#eceff3", "#2a313c"),
    "axis": ("#a8b0bb", "#4c5665"),
    "paper": ("#ffffff", "#171c24"),
}


def css_class(kind: str) -> str:
    """The class of a kind of bar or mark."""
    return f"kind-{kind.replace(',', '').replace(' ', '-')}"


def line_class(number: int) -> str:
    """The class of the line with this number, counted from 0."""
    return f"line-{number % len(LINE_COLOURS)}"


def chart_style() -> str:
    """The CSS of all charts. It follows the reader's choice, and ``data-theme`` of the root element if that is set."""
    light, dark = (_variables(theme) for theme in (0, 1))
    classes = [line_class(number) for number in range(len(LINE_COLOURS))] + [*map(css_class, KIND_COLOURS)]
    rules = "\n".join(f".{name}{{--shown:var(--{name})}}" for name in classes)
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n{rules}\n{_SHAPES}"
    )


def _variables(theme: int) -> str:
    named = {name: pair[theme] for name, pair in _INKS.items()}
    named |= {line_class(number): pair[theme] for number, pair in enumerate(LINE_COLOURS)}
    named |= {css_class(kind): pair[theme] for kind, pair in KIND_COLOURS.items()}
    return ";".join(f"--{name}:{colour}" for name, colour in named.items())


_SHAPES = """\
.drawing{width:100%;height:auto;display:block}
.drawing text{font:11px system-ui,sans-serif;fill:var(--quiet)}
.drawing .rule{stroke:var(--rule)}
.drawing .guide{stroke:var(--axis);stroke-dasharray:2 4}
.drawing .axis{stroke:var(--axis)}
.drawing polyline{fill:none;stroke:var(--shown);stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}
.drawing rect,.drawing .dot{fill:var(--shown)}
.drawing .mark{fill:var(--shown);stroke:var(--paper);stroke-width:1.2}
.drawing .cross{fill:none;stroke:var(--shown);stroke-width:2.6;stroke-linecap:round}
.drawing .around{fill:none;stroke:var(--paper);stroke-width:5.5;stroke-linecap:round}
.legend{margin:.35em 0 0;color:var(--quiet);font-size:12px;line-height:1.7}
.legend span{margin-right:1.1em;white-space:nowrap}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px;background:var(--shown)}
"""
