"""Draws docs/images/deployment.svg: the processes of a deployment, and which calls which at what port.

``make docs`` runs it (deploy/generated_files.py). The picture follows the colours of the reader's system.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).resolve().parent.parent / "docs" / "images" / "deployment.svg"
WIDTH, HEIGHT = 860, 400
STYLE = """
text { font: 14px sans-serif; fill: #1b1f24 } .small { font-size: 12px; fill: #57606a }
rect { fill: #f3f5f8; stroke: #57606a; rx: 6 } .peer { fill: #dfe9fb; stroke: #3b5bdb }
line { stroke: #57606a; stroke-width: 1.5; marker-end: url(#tip) } .both { marker-start: url(#tip) }
.weights { stroke: #3b5bdb }
path { fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9da7b3 } rect { fill: #21262d; stroke: #9da7b3 }
  .peer { fill: #1f2f57; stroke: #7c93f0 } line { stroke: #9da7b3 } .weights { stroke: #7c93f0 } path { fill: #9da7b3 }
}
"""
BOXES = (
    (300, 20, 260, 62, "", "etcd, three members", "members, claims, the ledger, the job"),
    (40, 170, 170, 62, "peer", "peer", "7100, second port, 9464"),
    (345, 170, 170, 62, "peer", "peer", "7100, second port, 9464"),
    (650, 170, 170, 62, "peer", "peer", "7100, second port, 9464"),
    (40, 318, 250, 62, "", "data set", "a copy or a mount on each machine"),
    (305, 318, 250, 62, "", "checkpoint_store", "a shared folder or a bucket"),
    (570, 318, 250, 62, "", "discover, Prometheus", "9465, 9090; Alertmanager 9093"),
)
"""x, y, width, height, class, title, words below it."""
LINES = (
    (125, 170, 340, 82, "", ""),
    (430, 170, 430, 82, "", "2379"),
    (735, 170, 520, 82, "", ""),
    (210, 201, 345, 201, "both weights", "weights"),
    (515, 201, 650, 201, "both weights", "weights"),
    (125, 318, 125, 232, "", "read"),
    (430, 232, 430, 318, "both", "checkpoints"),
    (735, 318, 735, 232, "", "9464"),
)
"""From and to, class, words beside the middle."""


def text() -> str:
    """The picture, as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Peers call etcd and each other, read data, write checkpoints; Prometheus asks each peer</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for x, y, to_x, to_y, kind, words in LINES:
        parts.append(f'<line class="{kind}" x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}"/>')
        middle = f'x="{(x + to_x) / 2 + 8:g}" y="{(y + to_y) / 2 - 6:g}"'
        parts.append(f'<text class="small" {middle}>{escape(words)}</text>' if words else "")
    for x, y, width, height, kind, title, words in BOXES:
        parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>')
        middle = f'x="{x + width / 2:g}" text-anchor="middle"'
        parts.append(f'<text {middle} y="{y + 26}">{escape(title)}</text>')
        parts.append(f'<text class="small" {middle} y="{y + 46}">{escape(words)}</text>')
    return "\n".join([part for part in parts if part] + ["</svg>", ""])
