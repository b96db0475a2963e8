"""The partners of a peer, updated with each change of the members."""

from __future__ import annotations

import random

from gossip_caffe.membership.etcd.memory_etcd import MemoryEtcd
from gossip_caffe.membership.etcd.memory_store import MemoryStore
from gossip_caffe.membership.keys import JobKeys
from gossip_caffe.membership.members import MembersView, PeerRecord
from gossip_caffe.peer.sharing.partners_view import LivePartners
from tests.fake_clock import FakeClock


def test_partners_are_all_other_peers_that_train_the_same_net_after_any_changes() -> None:
    rng = random.Random(1)
    view = MembersView(MemoryStore(MemoryEtcd(FakeClock())), JobKeys("j"))
    partners = LivePartners(view, "p03", "f")
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
        view._tell(was, members.get(peer))
        wanted = {
            name: record
            for name, record in members.items()
            if name != "p03" and record.state == "training" and record.fingerprint == "f"
        }
        assert partners.addresses == {name: record.address for name, record in wanted.items()}
        assert partners.zones == {name: record.zone for name, record in wanted.items()}


def test_a_listener_is_not_called_after_its_subscription_is_closed() -> None:
    view = MembersView(MemoryStore(MemoryEtcd(FakeClock())), JobKeys("j"))
    told: list[str] = []
    record = PeerRecord("p1", "1", "h:1", "h", 1, "training", fingerprint="f")
    kept = view.listen(lambda was, now: told.append("kept"))
    closed = view.listen(lambda was, now: told.append("closed"))
    views_of_partners = [LivePartners(view, "p0", "f") for _ in range(50)]  # one for each beginning of a peer
    for partners in views_of_partners:
        partners.close()
    closed.close()
    closed.close()
    view._tell(None, record)
    assert told == ["kept"]
    assert not any(partners.addresses for partners in views_of_partners)
    assert len(view._listeners) == 1
    kept.close()
