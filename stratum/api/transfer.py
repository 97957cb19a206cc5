"""Commits to and from places."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from stratum.api.naming import ref_or_mountpoint
from stratum.api.session import Session
from stratum.api.tagmoves import TagMove, tag_move
from stratum.api.unreal import bring_all
from stratum.errors import DamagedError, UsageError
from stratum.progress import Progress
from stratum.refs import check_name, parse_tag
from stratum.store.resolve import tag_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratum.oci.access import Access
    from stratum.oci.target import Target
    from stratum.store import Store
    from stratum.transfer.artifact import Manifest
    from stratum.transfer.pull import PullResult
    from stratum.transfer.push import PushResult


def push(
    session: Session,
    text: str,
    target: str | None = None,
    *,
    access: Access,
    dry_run: bool = False,
    offline: bool = False,
    keep_tag: bool = False,
    image: str | None = None,
    progress: Progress | None = None,
) -> PushResult:
    """Send the commit that ``text`` names, a ref or a path at or below a mountpoint, to ``target``.

    Where ``target`` says no tag, it gets that of NAME:TAG, the worktree's name of NAME+WORKTREE, the first 12 digits of
    a hash, and ``latest`` for NAME alone. Without ``target``, it goes to the repository NAME in the default registry.
    ``image`` is the compression of the layers (``transfer.imagepush``) where it is sent as an ordinary image. What has
    to be sent and is not here is fetched first, unless ``offline``. ``keep_tag`` is ``transfer.push``'s.

    Raises ``UsageError`` for a target of the wrong form, and ``StratumError`` with the place's own words.
    """
    from stratum.oci.target import parse_target
    from stratum.transfer.push import push as run

    store = session.store
    ref = ref_or_mountpoint(session, text)
    found = store.resolve(ref)
    if target is None:
        if found.name is None or session.config.registry is None:
            raise UsageError(
                f"it is not said where to push {text} to",
                hint="give HOST/REPOSITORY[:TAG] or s3://BUCKET/PREFIX[:TAG], or set 'registry' in the configuration "
                "and push NAME:TAG",
            )
        target = found.name.lower()
    parsed = parse_target(target, session.config.registry, default_tag=tag_elsewhere(found, ref))
    if image is not None:
        if keep_tag:
            raise UsageError("an image gets no tag that keeps it", hint="leave --keep-tag or '--as image' out")
        bring_all(session, found.commit, offline=offline or dry_run, progress=progress)
        return _push_image(store, found.commit, parsed, access, image, dry_run, progress)
    return run(
        store,
        found.commit,
        parsed,
        access,
        dry_run=dry_run,
        offline=offline,
        keep_tag=keep_tag,
        jobs=session.config.jobs,
        progress=progress,
    )


def _push_image(
    store: Store,
    commit: str,
    target: Target,
    access: Access,
    compression: str,
    dry_run: bool,
    progress: Progress | None,
) -> PushResult:
    from stratum.oci.places import open_sink
    from stratum.transfer.imagepush import push_image
    from stratum.transfer.push import check_pushable

    check_pushable(target)
    with open_sink(target, access, create=not dry_run) as remote:
        return push_image(
            store, commit, remote, target.tag, compression=compression, dry_run=dry_run, progress=progress
        )


@dataclass(frozen=True, slots=True)
class Pulled:
    """A commit that was pulled and the tag that names it now.

    ``objects`` and ``unreal``: (number, bytes) of the objects that it needs, and of those that are not here; ``kept``
    those that came of a lazy pull because rules of residence keep them.
    """

    commit: str
    ref: str
    previous: str | None
    manifest_digest: str
    bytes_received: int
    objects: tuple[int, int]
    unreal: tuple[int, int]
    kept: tuple[int, int] = (0, 0)


def pull(
    session: Session,
    source: str,
    name: str | None = None,
    *,
    access: Access,
    isolated: bool = False,
    lazy: bool = False,
    mounted: bool = False,
    prefetch: str = "none",
    keep_tag: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    room: Callable[[int], object] | None = None,
) -> Pulled:
    """Fetch the commit that ``source`` names and point NAME:TAG at it.

    ``name`` (NAME or NAME:TAG) defaults to the last part of the repository and the tag that was pulled. A tag of the
    same name as the one that is pulled moves where the commit descends from the one that it names; any other that names
    another commit is ``ExistsError``, before anything is fetched, unless ``force``. The reflog keeps where it was.
    ``isolated`` and ``lazy`` are ``transfer.pull``'s; after a lazy pull what the commit's ``profile`` lists, or
    ``all``, is fetched too where ``prefetch`` says so, and meanwhile the commit can be used. ``keep_tag``: the place
    keeps the manifest by another tag, also when the one that was pulled moves; an error of that comes after all else
    was done. ``mounted``: the commit is about to be mounted. ``room`` is told how many bytes are about to come, and may
    raise. Raises as ``transfer.pull``, and ``UnsupportedError`` for a lazy pull that the kernel could not show.
    """
    from stratum.mount.plan import check_lazy
    from stratum.oci.places import open_source
    from stratum.oci.target import parse_target
    from stratum.transfer.keeptag import keep
    from stratum.transfer.pull import pulled

    if lazy:
        check_lazy(os.uname().release)
    target = parse_target(source, session.config.registry)
    stratum, tag = _destination(target, name)
    store = session.create_store()
    move = tag_move(store, stratum, tag, force=force)
    with open_source(target, access) as remote:
        bring = pulled(
            store,
            remote,
            target.reference,
            access=access,
            jobs=session.config.jobs,
            isolated=isolated,
            lazy=lazy,
            progress=progress,
            accept=partial(_accept, store, move, may_follow=tag == target.tag),
            room=partial(_make_room, session, access, room),
            image=session.image_room if mounted else None,
        )
        with bring as done:  # the store is locked from when the commit is there until the tag is set
            move.set(store, done.commit, f"pull {target}")
        if keep_tag:
            keep(remote, done.manifest_digest)
    found = _pulled(done, move)
    if not lazy:
        return found
    return _prefetched(session, _with_ruled(session, stratum, found, access, progress), prefetch, access, progress)


def _pulled(done: PullResult, move: TagMove) -> Pulled:
    return Pulled(
        done.commit, str(move), move.previous, done.manifest_digest, done.bytes_received, done.objects, done.unreal
    )


def _make_room(session: Session, access: Access, told: Callable[[int], object] | None, coming: int) -> None:
    """Have what can be fetched again make room for what is pulled, where that is within the limits then."""
    from stratum.hydrate.evict import make_room

    make_room(session.store, session.state, session.config, access, coming)
    if told is not None:
        told(coming)


def _accept(store: Store, move: TagMove, manifest: Manifest, *, may_follow: bool) -> None:
    """Raise where the tag may not move to the commit of ``manifest``, which it ``may_follow``."""
    from stratum.store.descent import descends
    from stratum.transfer.artifact import told_ancestors

    old, new = move.previous, manifest.commit
    told = {new: told_ancestors(manifest)}
    move.check(new, follows=old is not None and may_follow and descends(store, new, old, told))


def _prefetched(session: Session, pulled: Pulled, prefetch: str, access: Access, progress: Progress | None) -> Pulled:
    """Have at once of a commit that was pulled lazily what its profile lists, or all of it. Large objects of a profile
    stay away: of these only parts are read."""
    from stratum.api.realizing import bring
    from stratum.hydrate.profile import read_profile
    from stratum.tree.contents import objects_of

    store = session.store
    if prefetch == "none" or not store.sources.is_partial(pulled.commit):
        return pulled
    wanted = objects_of(store.commits.dump(pulled.commit))
    if prefetch == "profile":
        listed = set()
        with suppress(DamagedError):  # a profile that is damaged is none
            entries = read_profile(store.profiles.read(pulled.commit) or b"")
            listed = {entry.digest for entry in entries if not entry.chunks}
        wanted = {digest: size for digest, size in wanted.items() if digest in listed}
    with store.locks.store():
        missing = store.residence.missing(wanted)
    if not missing:
        return pulled
    bring(session, missing, pulled.commit, access, progress)
    count, size = len(missing), sum(missing.values())
    unreal = (pulled.unreal[0] - count, pulled.unreal[1] - size)
    return replace(pulled, unreal=unreal, bytes_received=pulled.bytes_received + size)


def _with_ruled(session: Session, stratum: str, pulled: Pulled, access: Access, progress: Progress | None) -> Pulled:
    """Have what the stratum's rules keep of a commit that was pulled lazily."""
    from stratum.api.realizing import realize_ruled

    kept = realize_ruled(session, stratum, pulled.commit, access, progress)
    unreal = (pulled.unreal[0] - kept[0], pulled.unreal[1] - kept[1])
    return replace(pulled, unreal=unreal, kept=kept, bytes_received=pulled.bytes_received + kept[1])


def _destination(target: Target, name: str | None) -> tuple[str, str]:
    """(stratum, tag) that a pull sets."""
    if name is not None:
        return parse_tag(name, target.tag)
    if target.bucket is not None:
        last = target.bucket.last
    else:
        last = (target.repository or (target.directory.name if target.directory else "")).rpartition("/")[2]
    try:
        return check_name(last), check_name(target.tag, "tag")
    except UsageError as exc:
        raise UsageError(f"{target} gives no name for the stratum: {exc.message}", hint="add NAME[:TAG]") from None
