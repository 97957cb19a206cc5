"""Making room where the disk is full, before the kubelet throws pods out for that.

What goes first is what can be had again at the least price, and only as much as is needed:

1. what is garbage by its age (``csi.collecting``);
2. images that no mount shows, which are made again in a moment;
3. what was pulled and no volume is made of, whatever its age, what was not used for longest first;
4. what of lazy volumes is here and their sources were lately seen to have: files that nobody reads now first;
5. what deleted volumes and snapshots held, whatever its age.

Never does anything go that a volume or a pod uses, that has a tag of somebody's or a pin, or that only this node has
and a volume, snapshot or tag names. What came within ``YOUNG`` stays: a volume is about to be made of it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Set
from contextlib import suppress
from datetime import timedelta

from stratum.csi.collecting import Rules, collect, commits_used
from stratum.csi.driver import Driver
from stratum.csi.room import Lack
from stratum.csi.sources import node_access
from stratum.errors import StratumError
from stratum.frozen import frozen, replace
from stratum.hydrate.evict import LOCK_WAIT, MIN_AGE, SHORT_AGE, Evictor
from stratum.store.clock import utc_now
from stratum.store.needed import Needed

YOUNG = timedelta(minutes=3)
"""The kubelet and the sidecars call again within two minutes."""

_log = logging.getLogger(__name__)


@frozen
class Candidate:
    """A pull that may go: ``age`` since a volume last began with it, and what its commit has at most."""

    key: str
    age: timedelta
    bytes: int
    inodes: int


def relieve(driver: Driver, rules: Rules) -> int:
    """Make room until the disk lacks nothing any more, or nothing may go; the bytes that were freed. Raises as
    ``collect``."""
    room = driver.room
    freed = collect(driver, rules).bytes_freed
    if room.lack():
        freed += _trim_images(driver)
    tried = set[str]()
    while lack := room.lack():
        going = enough(_candidates(driver, rules, tried), lack)
        if not going:
            break
        tried.update(candidate.key for candidate in going)
        age = min(candidate.age for candidate in going)
        freed += collect(driver, replace(rules, pulled_age=min(age, rules.pulled_age))).bytes_freed
    if room.lack():
        freed += _evict(driver)
    if room.lack() and rules.reflog_age:
        freed += collect(driver, replace(rules, reflog_age=timedelta())).bytes_freed
    short = room.tried()
    if short:
        fields = {"bytes": short.bytes, "inodes": short.inodes}
        _log.warning("the disk is too full, and nothing is left that may go", extra={"fields": fields})
    return freed


def enough(candidates: Iterable[Candidate], lack: Lack) -> list[Candidate]:
    """As many of the candidates, those that were not used for longest first, as make up for ``lack``: what they share
    counts for each, so that it may take another look. Pure."""
    found = list[Candidate]()
    size = inodes = 0
    for candidate in sorted(candidates, key=lambda each: each.age, reverse=True):
        if size >= lack.bytes and inodes >= lack.inodes:
            break
        found.append(candidate)
        size, inodes = size + candidate.bytes, inodes + candidate.inodes
    return found


def _candidates(driver: Driver, rules: Rules, tried: Set[str]) -> list[Candidate]:
    """What was pulled that no volume is made of, but for what was ``tried`` already."""
    store, used, now = driver.session.store, commits_used(driver), utc_now().timestamp() * 1e9
    found = []
    for pull in driver.pulls.list():
        age = timedelta(microseconds=max(0.0, now - pull.used) / 1000)
        free = pull.commit and (pull.stratum, pull.commit) not in used and pull.key not in tried
        if not free or age < min(YOUNG, rules.pulled_age):
            continue
        with suppress(StratumError):  # its commit is gone, or damaged, which 'fsck' tells
            meta = store.commits.meta(pull.commit)
            found.append(Candidate(pull.key, age, meta.total_size, meta.file_count))
    return found


def _trim_images(driver: Driver) -> int:
    """Have the images go that no mount shows; the bytes."""
    session = driver.session
    with session.store.locks.store():
        return session.store.images.trim(replace(session.image_room(), limit=0), older_than=MIN_AGE).bytes


def _evict(driver: Driver) -> int:
    """Have content of lazy volumes go that can be fetched again; the bytes. What volumes need that are here as a whole
    stays: they start without their registry."""
    session, store, freed = driver.session, driver.session.store, 0

    def wanted(_held: int) -> int:
        lack = driver.room.lack()
        return lack.bytes or (sys.maxsize if lack.inodes else 0)

    try:
        if not store.sources.any_partial():
            return 0
        with store.locks.store():
            only = _of_partial_alone(driver)
        evictor = Evictor(store, session.state, session.config, node_access(driver))
        for older_than in (MIN_AGE, SHORT_AGE):
            done = evictor.evict(wanted, only=only, older_than=older_than, timeout=LOCK_WAIT)
            freed += done.bytes
            for problem in done.problems:
                _log.warning("%s", problem)
    except StratumError as exc:
        _log.warning("lazy volumes make no more room: %s", exc.message)
    return freed


def _of_partial_alone(driver: Driver) -> set[bytes]:
    """The objects that only commits need that are not here as a whole."""
    store = driver.session.store
    partial, whole = Needed(store.layout, store.trees), Needed(store.layout, store.trees)
    commits = store.commits.list()
    partial.add([commit for commit in commits if store.sources.is_partial(commit)])
    whole.add([commit for commit in commits if not store.sources.is_partial(commit)])
    return partial.objects - whole.objects
