"""What publishing and unpublishing mean for a volume's worktree: where it comes from, and the commit at the end."""

from __future__ import annotations

import contextlib
import logging

from stratum.api.leases import release
from stratum.csi.attributes import Attributes, PullPolicy
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, not_found, precondition
from stratum.csi.jobs import Caller, Task
from stratum.csi.mounts import targets
from stratum.csi.provisioning import find_volume
from stratum.csi.sources import Asker, fetch, pull
from stratum.errors import ExistsError, StratumError, UsageError
from stratum.oci.target import Target
from stratum.refs import DEFAULT_WORKTREE, Ref, is_hash, parse_ref
from stratum.store.clock import rfc3339, utc_now
from stratum.store.holders import Holder, KubernetesVolume, Lease, Promise, short_error
from stratum.store.resolve import Resolved, ResolvedWorktree

_log = logging.getLogger(__name__)


def volume_for_node(driver: Driver, volume_id: str, attributes: Attributes, asker: Asker) -> Resolved:
    """What the volume is on this node; made from its ``source`` where it is not here and has one.

    A static volume may be used on every node that way: each has a worktree, or the tag, of its own.
    """
    try:
        return find_volume(driver, volume_id, create=True)
    except CallError as exc:
        if exc.code != Code.NOT_FOUND or attributes.source is None:
            raise
    try:
        ref = parse_ref(volume_id)
    except UsageError as exc:
        raise not_found(f"there is no volume {volume_id[:140]!r}: {exc.message}") from None
    _make(driver, ref, attributes.source, attributes.pull_policy, asker)
    return find_volume(driver, volume_id, create=True)


def _make(driver: Driver, ref: Ref, source: Target | Ref, policy: PullPolicy | None, asker: Asker) -> None:
    store = driver.session.store
    if is_hash(ref.name) or (ref.tag is not None and is_hash(ref.tag)):
        raise not_found(f"there is no commit {ref}")
    if ref.tag is None:
        origin = fetch(driver, source, asker, policy)
        worktree = ref.worktree or DEFAULT_WORKTREE
        with contextlib.suppress(ExistsError):  # another call made it at the same time
            store.worktrees.create(ref.name, worktree, origin.commit, why=f"made for a Kubernetes volume from {source}")
    elif isinstance(source, Target):
        if policy == PullPolicy.NEVER:
            raise precondition(f"{ref} is not on this node, and pullPolicy is Never")
        pull(driver, source, str(ref), asker)
    else:
        commit = store.resolve_commit(source)
        store.tags.set(ref.name, ref.tag, commit, expected=None, why=f"made for a Kubernetes volume from {source}")


def promise_commit(driver: Driver, volume_id: str, found: ResolvedWorktree, tag: str | None) -> None:
    """Note in the worktree's lease that it is committed when it is published no more, also after a reboot.

    What an earlier holder's lease asks for is done first.
    """
    holder, promise = KubernetesVolume(volume_id), Promise(tag=tag)
    with driver.session.hold(found.ref) as held:
        lease = held.lease
        error = lease.last_error if lease is not None else None
        if lease is not None and lease.holder != holder:
            error = _release(driver, found.name, found.worktree, lease.holder)
        if lease is None or lease.holder != holder or lease.promise != promise:
            held.set_lease(Lease(holder, rfc3339(utc_now()), promise, error))


def _release(driver: Driver, name: str, worktree: str, holder: Holder) -> str | None:
    """Do what a lease asks for; what that failed with, if it did.

    No pod is kept from starting or ending by it: the work is in the worktree, the error in its lease, and so in the
    volume's condition, and the next commit takes all of it.
    """
    try:
        release(driver.session, name, worktree, holder)
    except StratumError as exc:
        _log.warning("%s+%s is not committed: %s", name, worktree, exc.message)
        return short_error(exc)
    return None


def keep_promise(driver: Driver, volume_id: str, caller: Caller) -> None:
    """Commit the volume's worktree where that was promised and nothing has the volume published any more.

    Runs as a job: ABORTED while it is under way. Nothing to do, and a commit that fails, is no error.
    """
    if targets(driver, volume_id):
        return
    try:
        found = find_volume(driver, volume_id)
    except CallError as exc:
        if exc.code == Code.NOT_FOUND:
            return
        raise
    if not isinstance(found, ResolvedWorktree):
        return
    name, worktree = found.name, found.worktree
    holder = KubernetesVolume(volume_id)
    lease = driver.session.store.worktrees.lease(name, worktree)
    if lease is not None and lease.holder == holder:
        task = Task(f"commit of {volume_id}")
        driver.jobs.run(task, lambda: _release(driver, name, worktree, holder), caller)
