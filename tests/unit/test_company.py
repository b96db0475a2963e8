"""Who can be asked for an exchange, kept up to date change by change."""

from __future__ import annotations

import random

from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.membership.memory_etcd import MemoryEtcd
from gossip_caffe.membership.memory_store import MemoryStore
from gossip_caffe.peer.company import Company
from tests.fake_clock import FakeClock


def test_partners_are_all_others_that_train_the_same_net_whatever_has_happened() -> None:
    rng = random.Random(1)
    view = MembersView(MemoryStore(MemoryEtcd(FakeClock())), JobKeys("j"))
    company = Company(view, "p03", "f")
    members: dict[str, PeerRecord] = {}
    for step in range(2000):
        peer = f"p{rng.randrange(80):02d}"
        was = members.pop(peer, None)
        if rng.random() < 0.8:
            state, fingerprint = rng.choice(["training", "syncing", "training"]), rng.choice("fffg")
            address = f"h{rng.randrange(3)}:1"
            members[peer] = PeerRecord(
                peer, str(step), address, "h", 1, state, fingerprint=fingerprint, zone=rng.choice("ab")
            )
        for callback in view.on_change:
            callback(was, members.get(peer))
        wanted = {
            name: record
            for name, record in members.items()
            if name != "p03" and record.state == "training" and record.fingerprint == "f"
        }
        assert company.addresses == {name: record.address for name, record in wanted.items()}
        assert company.zones == {name: record.zone for name, record in wanted.items()}
