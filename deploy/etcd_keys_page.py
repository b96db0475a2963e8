"""Makes docs/etcd-keys.md from the code: every key of a job in etcd, its value, and the rules by which both change."""

# ruff: noqa: E501 - the lines of the page are as long as its tables need

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.checkpoint.manifest import FORMAT
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.observe.log.status import PeerStatus
from gossip_caffe.observe.log.tested import ConsensusTest, Output

PAGE = Path(__file__).resolve().parent.parent / "docs" / "etcd-keys.md"
HEAD = """# The keys of a job in etcd

Any client of etcd (v3) can read a job: its members, its progress and its checkpoints. `tests/integration/test_python_api.py`
does so with a plain client of Python. This page is generated from the code by `make docs`.

All keys of a job begin with `{root}`. Values are JSON objects in UTF-8, but for the claims, whose value is a peer's name.
A key "on a lease" vanishes with the lease of its peer: the peer has left, or has died.

| key | on a lease | value |
|---|---|---|
"""
RULES = """
## Which of it lasts

- **Read, do not write.** What a peer writes is guarded by its fence, and a peer believes no other writer's record: a member
  counts only under the lease that it names, a job's end only with its checkpoint. A request to leave (`leave/<peer>`) is
  the one key that another program writes, on the lease of the peer that it asks (`gossip-caffe peer stop`).
- **Fields are only added.** A reader must pass over fields that it does not know, as peers do. A field that is missing has
  the default below. A field never changes its meaning: another meaning gets another name.
- **Versions.** `version` in a member's record is the version of gossip-caffe of that peer. The files of a checkpoint have
  a format of their own, now {format}, in `manifest.json`: `gossip-caffe checkpoint pull` fetches and verifies them from
  the `holders`, who serve them over gRPC ([the protocol](internals/protocol.md)).
- **Watch** `peers/`, `checkpoints/`, `tested` and `finished`: they change seldom. `status/` and `ledger/` change all the time:
  read them when they are wanted.
- **Progress** is the largest `progress_samples` under `status/`, or exactly: `folded` epochs, and the done marks of
  the open ones, times the records of a chunk (`data.chunk_records` in `spec`; the last chunk of an epoch may be smaller).

From Python, `gossip_caffe.connect` does all of this ([Python](python.md)).
"""
KEYS = (
    ("spec", "no", "the job: prototxts, data, settings: see `spec`", "spec"),
    ("peers/<peer>", "yes", "a member: see `PeerRecord`; watched by every peer", "peers"),
    ("status/<peer>", "yes", "live figures: see `PeerStatus`", "statuses"),
    (
        "fence/<peer>",
        "yes",
        "the peer's last transaction; makes its writes exactly-once, and none after its lease",
        "fences",
    ),
    (
        "ranks/<number>",
        "yes",
        "the name of the peer that has the number; only where the net's own layers make its data",
        "ranks",
    ),
    (
        "leave/<peer>",
        "yes",
        '`{"by": why}`: the request to leave, on the lease of the peer that is asked',
        "leave",
    ),
    ("ledger/claims/<epoch>/<chunk>", "yes", "the name of the peer that owns the chunk", "claims"),
    ("ledger/done/<epoch>/<chunk>", "no", "the chunk is settled: `peer`, and by what it was shared", "done"),
    (
        "folded, folded-copy",
        "no",
        "`epochs`: how many epochs are finished; the keys of their chunks are gone. Both hold the same",
        "folded",
    ),
    (
        "founder",
        "yes",
        "the peer that made the job's first weights, or took it back to a checkpoint",
        "founder",
    ),
    ("rollbacks", "no", "how often the job was taken back to a checkpoint, and to which", "rollbacks"),
    ("duty/checkpoint", "yes", "the peer that makes checkpoints now", "duty"),
    (
        "checkpoints/<id>",
        "no",
        "an announced checkpoint and its holders: see `Announcement`; joiners are written down until 32 living ones are",
        "checkpoints",
    ),
    (
        "withdrawn",
        "no",
        "the last 512 checkpoints whose announcements peers took back, and who did",
        "withdrawn",
    ),
    (
        "clip",
        "no",
        "the limit of gradients under `clip=auto`: `limit` (0: none fits) and its `reason`",
        "clip",
    ),
    ("tested", "no", "the newest test of the consensus: see `ConsensusTest`", "tested"),
    (
        "finished",
        "no",
        "the job's end: `checkpoint`, its last one, `progress_samples` and `wall` (seconds since 1970)",
        "finished",
    ),
    (
        "stopped",
        "no",
        '`{"by": why}`: the job was stopped before its end, as a pruned trial is ([tuning](tune.md))',
        "stopped",
    ),
)
"""Key below the root, whether it hangs on a lease, its value, and its name in JobKeys."""
RECORDS = (
    ("peers/<peer>", PeerRecord),
    ("status/<peer>", PeerStatus),
    ("checkpoints/<id>", Announcement),
    ("tested", ConsensusTest),
    ("tested: outputs", Output),
    ("spec", JobSpec),
)


def shown(default: Any) -> str:
    """A field's default."""
    if default is dataclasses.MISSING:
        return "always there"
    if dataclasses.is_dataclass(default):
        return "nothing in it"
    return f"`{json.dumps(default)}`"


def fields_of(record: type[Any]) -> str:
    """The table of a record's fields."""
    rows = [
        f"| `{field.name}` | {type_words(str(field.type))} | {shown(field.default)} |\n"
        for field in dataclasses.fields(record)
    ]
    return "| field | type | default |\n|---|---|---|\n" + "".join(rows)


def type_words(name: str) -> str:
    """A type as JSON has it."""
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    plain = name.removesuffix(" | None")
    found = words.get(
        plain, "object" if plain.startswith(("dict", "Mapping")) or plain[:1].isupper() else plain
    )
    if plain.startswith("tuple"):
        found = "list"
    return f"{found} or null" if plain != name else found


def described(record: type[Any]) -> str:
    """The description in a record's docstring, without its first line."""
    text = inspect.getdoc(record) or ""
    return re.sub(r"``([^`]+)``", r"`\1`", text).strip()


def page() -> str:
    """The whole page."""
    root = JobKeys("job").root.replace("/job/", "/<job>/")
    rows = "".join(f"| `{key}` | {lease} | {value} |\n" for key, lease, value, _ in KEYS)
    head = HEAD.format(root=root) + rows.replace("`folded, folded-copy`", "`folded`, `folded-copy`")
    rules = RULES.format(format=FORMAT)
    records = "".join(
        f"\n## {record.__name__}: `{key}`\n\n{described(record)}\n\n{fields_of(record)}"
        for key, record in RECORDS
    )
    return head + rules + records
