"""Studies in the store: a study is created once, and read by every worker."""

from __future__ import annotations

import json

from gossip_caffe.errors import Conflict, NotFound, StoreRefused, UsageError
from gossip_caffe.membership.etcd.store import Absent, Delete, Exists, Guard, Put, Store
from gossip_caffe.plain import shown
from gossip_caffe.tune.board.keys import STUDIES, StudyKeys, study_names
from gossip_caffe.tune.study.spec import StudySpec


async def create_study(store: Store, spec: StudySpec) -> bool:
    """Store a study. Returns False when the same study was there already.

    Raises Conflict when a different study has the name.
    """
    key = StudyKeys(spec.name).spec
    result = await store.transact([Absent(key)], [Put(key, spec.to_json())])
    if result.succeeded:
        return True
    if StudySpec.from_json(result.found[0].value).fingerprint != spec.fingerprint:
        raise Conflict(
            f"there is another study {spec.name!r}",
            remedy="give this one another name, or go on with that file",
        )
    return False


async def load_study(store: Store, name: str) -> StudySpec:
    """Read a study. Raises NotFound, which lists the studies that exist."""
    item = await store.get(StudyKeys(name).spec)
    if item is None:
        raise NotFound(
            f"there is no study {name!r}{await _known(store)}",
            remedy="make it with 'gossip-caffe tune create STUDY.toml'",
        )
    try:
        spec = StudySpec.from_json(item.value)
    except UsageError as error:
        raise UsageError(
            f"study {name!r} in etcd cannot be read: {error.message}", remedy=error.remedy
        ) from None
    if spec.name != name:
        raise UsageError(
            f"study {name!r} in etcd cannot be read: it is the record of {shown(spec.name)}",
            remedy="create the study again",
        )
    return spec


async def _known(store: Store) -> str:
    """The studies that there are, in words; "" for a user that may not list them."""
    try:
        return f" (known: {', '.join(study_names(await store.keys(STUDIES))) or 'none'})"
    except StoreRefused:
        return ""


async def only_study(store: Store) -> str:
    """The name of the only study in the store. Raises NotFound when there is none, UsageError for several."""
    try:
        names = study_names(await store.keys(STUDIES))
    except StoreRefused as error:
        raise UsageError(
            f"which study is meant is not clear: {error.message}", remedy="give --study NAME"
        ) from None
    if not names:
        raise NotFound(
            "there is no study in etcd", remedy="make one with 'gossip-caffe tune create STUDY.toml'"
        )
    if len(names) > 1:
        raise UsageError(
            f"there are several studies in etcd ({', '.join(names)})", remedy="give --study NAME"
        )
    return names[0]


async def stop_study(store: Store, name: str, by: str) -> bool:
    """Stop a study: its workers leave, and no trial begins. Returns False when it was stopped already."""
    keys = StudyKeys(name)
    guards: list[Guard] = [Exists(keys.spec), Absent(keys.stopped)]
    return (await store.transact(guards, [Put(keys.stopped, json.dumps({"by": by}).encode())])).succeeded


async def go_on(store: Store, name: str) -> None:
    """Let a stopped study go on."""
    await store.transact([], [Delete(StudyKeys(name).stopped)])
