"""A foreign writer in the store of a simulated job: mistakes, leftovers, an older backup, and malicious writes.

It knows the names of the keys, but it is no peer: it has no fence, so a peer's checks can recognise its writes.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable

from gossip_caffe.checkpoint.announce import Announcement
from gossip_caffe.errors import StoreError
from gossip_caffe.job.spec.spec import JobSpec
from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.store import Delete, DeletePrefix, Operation, Put
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import PeerRecord
from gossip_caffe.shards.epochs import Epochs

GARBAGE = (b"", b"\xff\xfe", b"{", b"[]", b"null", b"{}", b"0", b"[" * 2000, b"\x00" * 100)
HOSTILE_IDS = (
    "..",
    "../../victim",
    "zz/../../../victim",
    "/victim",
    "a\0b",
    ".unfinished-x",
    "\u202e",
    "x" * 300,
    "-rf",
    "\x1b]0;x\x07",
)
HOSTILE_ADDRESSES = ("unix:/tmp/x", "dns:1", "h", "h:0", "h:1\n", "ipv4:1.2.3.4:1,5.6.7.8:1", "nobody:1")
DEAD = 20
"""The number of bogus members that it adds at once."""
LEASE_S = 8.0


class ForeignWriter:
    """Writes into a job's store. Each ``write`` makes one kind of write and returns its name.

    ``revisions``: those of its writes. Only living peers remove such writes; where no peer lives, they stay.
    """

    def __init__(self, etcd: MemoryEtcd, spec: JobSpec) -> None:
        self.revisions: set[int] = set()
        self._etcd = etcd
        self._keys = JobKeys(spec.name)
        self._spec = spec
        self._epochs = Epochs.of(spec)
        self._what: dict[str, Callable[[random.Random], list[Operation]]] = {
            "announcements-removed": self._removed,
            "announcements-replaced": self._replaced,
            "hostile-ids": self._hostile,
            "finished": self._finished,
            "done": self._done,
            "claims": self._claims,
            "bogus-members": self._bogus,
            "own-record": self._own_record,
            "folded": self._folded,
            "holders": self._holders,
            "fences": self._fences,
            "garbage": self._garbage,
        }

    @property
    def kinds(self) -> list[str]:
        """The names of all kinds of writes."""
        return sorted(self._what)

    def write(self, rng: random.Random) -> str:
        """Make one kind of write, chosen at random; returns its name."""
        what = rng.choice(self.kinds)
        before = self._etcd.revision
        # All operations are one transaction, so they share one revision.
        try:
            self._etcd.transact([], self._what[what](rng))
        except StoreError:
            return f"{what}, which was refused"
        finally:  # the write that fills etcd is refused and applied all the same
            if self._etcd.revision > before:
                self.revisions.add(self._etcd.revision)
        return what

    def _under(self, prefix: str) -> list[str]:
        return list(self._etcd.under(prefix))

    def _removed(self, rng: random.Random) -> list[Operation]:
        del rng
        return [DeletePrefix(self._keys.checkpoints)]

    def _replaced(self, rng: random.Random) -> list[Operation]:
        samples = rng.choice([0, self._spec.budget_samples // 2, self._spec.budget_samples, 10**12])
        name = f"{samples:014d}-zz"
        bogus = Announcement(name, "0" * 64, samples, 1.0, {"nobody": "nobody:1"})
        there = self._under(self._keys.checkpoints)
        put = Put(self._keys.checkpoint(name), bogus.to_json())
        return [*(Delete(key) for key in there if key != put.key), put]

    def _hostile(self, rng: random.Random) -> list[Operation]:
        named = rng.choice(HOSTILE_IDS)
        value = json.loads(Announcement("0", "0" * 64, 0, 1.0, {"nobody": "nobody:1"}).to_json())
        return [
            Put(self._keys.checkpoint(named), json.dumps(value | {"checkpoint": named}).encode()),
            Put(self._keys.withdrawn, json.dumps({"checkpoints": {named: "p000"}}).encode()),
        ]

    def _finished(self, rng: random.Random) -> list[Operation]:
        there = [key.removeprefix(self._keys.checkpoints) for key in self._under(self._keys.checkpoints)]
        named = rng.choice([*there, "nothing", *HOSTILE_IDS])
        if self._keys.finished in self._etcd.keys:
            return []  # a real end must stay: no peer is left to restore it
        return [Put(self._keys.finished, json.dumps({"checkpoint": named}).encode())]

    def _done(self, rng: random.Random) -> list[Operation]:
        """Done marks for chunks that no peer has trained, and for chunks that do not exist."""
        epoch = rng.randrange(self._epochs.count)
        chunks = rng.sample(self._epochs.order(epoch), k=min(4, len(self._epochs.order(epoch))))
        chunks += rng.choice([[], [10**7]])
        value = rng.choice([b"{}", b"", json.dumps({"peer": "p000", "via": "x"}).encode()])
        return [
            Put(key, value)
            for key in (self._keys.done_mark(epoch, chunk) for chunk in chunks)
            if key not in self._etcd.keys
        ]

    def _claims(self, rng: random.Random) -> list[Operation]:
        """Claims of free chunks that never end."""
        epoch = rng.randrange(self._epochs.count)
        if not self._under(self._keys.claims(epoch)):
            return []  # no peer works on that epoch, so none would notice
        keys = [self._keys.claim(epoch, chunk) for chunk in rng.sample(self._epochs.order(epoch), k=1)]
        return [Put(key, b"p000") for key in keys if key not in self._etcd.keys]

    def _bogus(self, rng: random.Random) -> list[Operation]:
        """Records of members that do not exist: with one lease, with none, and with addresses of all kinds."""
        lease = rng.choice([0, self._etcd.grant(LEASE_S).id])
        record = PeerRecord("x", f"{lease:x}", "nobody:1", "h", 1, "training", weight=1e6)
        found: list[Operation] = []
        for number in range(DEAD):
            name = rng.choice([f"dead{number}", f"0{number}"])
            bogus = dataclasses.replace(record, peer=name, address=rng.choice(HOSTILE_ADDRESSES))
            found.append(Put(self._keys.peer(name), bogus.to_json(), lease))
        return list({operation.key: operation for operation in found if isinstance(operation, Put)}.values())

    def _own_record(self, rng: random.Random) -> list[Operation]:
        """A living peer's record, overwritten or removed."""
        there = self._under(self._keys.peers)
        if not there:
            return []
        key = rng.choice(there)
        item = self._etcd.keys[key]
        other = Put(
            key, rng.choice([*GARBAGE, item.value.replace(b":1", b":9")]), rng.choice([0, item.lease])
        )
        return [_one_of(rng, Delete(key), other)]

    def _folded(self, rng: random.Random) -> list[Operation]:
        garbage = [*GARBAGE, b'{"epochs": -1}', b'{"epochs": 1000000}', b'{"epochs": true}']
        key = rng.choice([self._keys.folded, self._keys.folded, self._keys.folded_copy])
        return [_one_of(rng, Put(key, rng.choice(garbage)), Delete(key))]

    def _holders(self, rng: random.Random) -> list[Operation]:
        """Duties that no peer ever gives up."""
        key = rng.choice([self._keys.duty("checkpoint"), self._keys.founder])
        return [Put(key, rng.choice([b"p000", b"\xff", b"nobody"]))]

    def _fences(self, rng: random.Random) -> list[Operation]:
        """The fence of a peer, removed or overwritten."""
        there = self._under(self._keys.fences)
        if not there:
            return []
        key = rng.choice(there)
        return [_one_of(rng, Delete(key), Put(key, b"x"))]

    def _garbage(self, rng: random.Random) -> list[Operation]:
        keys = [
            self._keys.withdrawn,
            self._keys.tested,
            self._keys.rollbacks,
            self._keys.leave(rng.choice(["p000", "p001", "nobody"])),
            f"{self._keys.root}unknown",
            f"{self._keys.ledger}done/x",
            f"{self._keys.ledger}claims/00000000/x",
            *self._under(self._keys.checkpoints),
        ]
        status = Put(self._keys.status("p000"), rng.choice(GARBAGE), self._etcd.grant(LEASE_S).id)
        return [Put(rng.choice(keys), rng.choice(GARBAGE)), status]


def _one_of(rng: random.Random, *operations: Operation) -> Operation:
    return rng.choice(operations)
