"""A worktree in the hand: locked, with nothing half done, and what can be done with it then.

``Session.hold`` gives it, and nothing else takes a worktree's lock. A mounted worktree is switched live: while its
mount takes no writes, the new upperdir takes the old one's place in the store in one step, a mount of it is built, and
one more step lets the mountpoint show it (``mount.swap``). Killed between the two steps, the store has the new state
and the mount shows the old one; who takes the worktree in the hand next finishes the switch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.inuse import InUse, user_of
from stratum.api.workplace import Workplace
from stratum.errors import DamagedError, StratumError
from stratum.frozen import field, frozen, replace
from stratum.refs import Ref, parse_new_tag
from stratum.store.holders import HOST, Holder
from stratum.store.locks import WORKTREE_WAIT
from stratum.store.reflog import KEPT_BEFORE

if TYPE_CHECKING:
    from stratum.api.quiescing import Quiesce
    from stratum.api.tagmoves import TagMove
    from stratum.mount.plan import MountPlan
    from stratum.mount.state import Record
    from stratum.mount.swap import LiveMount
    from stratum.store.holders import Lease
    from stratum.store.transaction import Transaction
    from stratum.store.worktree import Worktree
    from stratum.tree.model import Directory

    BuildUpper = Callable[[Transaction], Path]
    Warn = Callable[[str], None]


@frozen
class Committed:
    """What a commit did: the worktree, its commit now, the one before, and the tag that was set, if any.

    ``changed`` is False where the worktree showed just what its last commit (or its base) holds.
    """

    worktree: str
    commit: str
    parent: str
    changed: bool
    tag: str | None = None
    warnings: list[str] = field(default_factory=list)


class Held:
    """The worktree ``stratum+name``, whose lock is held.

    ``mounted`` is its mount on record, None where there is none: as it was when the lock was taken, and as what is done
    here changes it. The holder may take it away at any time; nobody can give the worktree another.
    """

    def __init__(self, place: Workplace, stratum: str, name: str) -> None:
        self.stratum = stratum
        self.name = name
        self.mounted: Record | None = place.state.find_worktree(place.store.root, stratum, name)
        self._place = place
        self._store = place.store
        self._may_lack = False

    def __str__(self) -> str:
        return str(self.ref)

    @property
    def ref(self) -> Ref:
        """``NAME+WORKTREE``."""
        return Ref(self.stratum, worktree=self.name)

    @functools.cached_property
    def worktree(self) -> Worktree:
        """What the store says about it, read once and kept true. ``NotFoundError``, ``DamagedError``."""
        return self._store.worktrees.get(self.stratum, self.name)

    @functools.cached_property
    def lease(self) -> Lease | None:
        """Who holds it according to the store. ``DamagedError`` where that cannot be read."""
        return self._store.worktrees.lease(self.stratum, self.name)

    def set_lease(self, lease: Lease | None) -> None:
        """Have the store say who holds it; None: nobody."""
        if lease is None:
            self._store.worktrees.clear_lease(self.stratum, self.name)
        else:
            self._store.worktrees.set_lease(self.stratum, self.name, lease)
        self.lease = lease

    # Who has it

    def user(self, *, ended: Holder | None = None) -> InUse | None:
        """Who has it in use, None where nobody has; ``ended`` is a holder that is known to have ended.

        ``DamagedError`` where nobody can tell.
        """
        return user_of(self._place, self.stratum, self.name, self.mounted, ended=ended)

    def refuse_in_use(self) -> None:
        """``BusyError`` where anybody has it in use."""
        user = self.user()
        if user is not None:
            raise user.error()

    def is_free(self, *, ended: Holder | None = None) -> tuple[bool, InUse | None]:
        """(whether it is sure that nobody has it in use, who has it), for what works either way; see ``user``."""
        try:
            user = self.user(ended=ended)
        except DamagedError:
            return False, None
        return user is None, user

    def reachable_mount(self) -> Record | None:
        """Its mount, to be switched live; None where nobody has it. ``BusyError`` where somebody has it whose mount
        cannot be switched from here."""
        user = self.user()
        if user is not None and (user.record is None or not user.reachable):
            raise user.error()
        return user.record if user is not None else None

    # What it shows

    def shown(
        self,
        tx: Transaction | None = None,
        base: Directory | None = None,
        warn: Warn = lambda warning: None,
        *,
        unlike: Directory | None = None,
    ) -> Directory:
        """The tree that it shows now; ``base`` is that of its base commit where the caller has it.

        With ``tx`` all content is there or in the store afterwards; without, contents are only hashed and nothing is
        written; of files that have another size than in ``unlike``, where that is given, not even that: they have no
        content. ``warn`` gets what cannot be kept. Raises what reading an upperdir raises.
        """
        if base is None:
            base = self._store.commits.open_tree(self.worktree.base_commit)
        return _read(self._place, tx, base, self.worktree, warn, unlike)

    def plan(
        self,
        *,
        read_only: bool = False,
        source: str = "stratum",
        extra: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> MountPlan:
        """The plan of a mount of it (``mount.plan.MountPlan``); ``options`` as for ``Workplace.gate``."""
        tree = self.worktree = self._store.worktrees.adopt(self.worktree)
        return self._place.plan(
            tree.base_commit,
            tree.upperdir,
            tree.workdir,
            read_only=read_only,
            source=source,
            extra=extra,
            options=options,
        )

    def mount(
        self,
        at: Path | None,
        *,
        read_only: bool = False,
        holder: Holder = HOST,
        make: bool = False,
        attributes: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> Record:
        """Mount it on the host (``mount.host.mount_recorded``) for ``holder``.

        ``attributes`` are ``MOUNT_ATTR_*`` to add, ``options`` those of its gate. ``BusyError`` where anybody has it in
        use.
        """
        from stratum.mount import host

        self.refuse_in_use()
        self.ensure_watched()
        with self.roomy():
            self.mounted = host.mount_recorded(
                self._place.state,
                self.plan(read_only=read_only, extra=attributes, options=options),
                store=self._store.root,
                ref=str(self),
                commit=self.worktree.base_commit,
                at=at,
                holder=holder,
                make=make,
            )
        return self.mounted

    def roomy(self) -> AbstractContextManager[None]:
        """For a block in which it is mounted, have room for that, however full it is (``store.quotas``)."""
        tree = self.worktree
        return nullcontext() if tree.limit is None else self._store.worktrees.quotas.roomy(tree.workdir, tree.limit)

    # Its history

    def ensure_watched(self) -> None:
        """Before somebody writes to it, have its history kept, if that is on."""
        if self._store.histories.settings(self.stratum, self.name) is None:
            return
        from stratum.api.watcher import ensure_watched

        self._note(ensure_watched(self._place, self.stratum, self.name))

    def flush(self) -> None:
        """Before its upperdir is read or goes, have all that was closed by now in its history, if that is on. Who
        watches and does not answer is waited for once."""
        if self._may_lack or self._store.histories.settings(self.stratum, self.name) is None:
            return
        from stratum.api.watcher import flushed

        note = flushed(self._place, self.stratum, self.name)
        self._may_lack = note is not None
        self._note(note)

    def _note(self, note: str | None) -> None:
        if note is not None:
            self._place.tell(note)

    # Commits

    def commit(
        self,
        *,
        tag: str | None = None,
        force: bool = False,
        message: str | None = None,
        why: str = "commit",
        pause: bool = False,
        quiesce: Quiesce | None = None,
        ended: Holder | None = None,
        once_read: Callable[[], object] = lambda: None,
    ) -> Committed:
        """Commit what it shows now, move its head there and point ``tag`` (TAG or NAME:TAG) at it.

        A worktree in use is not disturbed. Where nobody has it (``ended`` is a holder that is known to have ended),
        its base becomes the new commit and its upperdir is emptied, in one step. With ``pause`` a container that has it
        is paused while it is read, so that the commit is what a power cut at one moment would have left. With
        ``quiesce`` commands in that container are run before and after. ``once_read`` is called as soon as all is read,
        before it is durable; what it raises leaves things as they were.

        ``ExistsError`` where the tag names another commit, before anything is written, unless ``force``;
        ``StratumError`` where the container cannot be paused, or the command before fails. Durable when it returns.
        """
        store, tree = self._store, self.worktree
        move = self._tag_move(tag, force)
        # Asked before the upperdir is read: one that is unmounted meanwhile was still written to after that.
        free, user = self.is_free(ended=ended)
        warnings: list[str] = []
        with ExitStack() as around:
            if quiesce is not None:
                from stratum.api.quiescing import quiesced

                around.enter_context(quiesced(self._place, str(self), user, self.lease, quiesce))
            self.flush()
            with store.begin(f"committing {tree}") as tx:
                paused = user if pause else None

                def prepare(commit: str) -> None:
                    if not free and commit != tree.commit:
                        store.worktrees.prepare_head(tx, self.stratum, self.name, commit)

                commit = self._write(
                    tx,
                    tree,
                    message=message,
                    paused=paused,
                    warn=warnings.append,
                    accept=prepare,
                    once_read=once_read,
                )
                if free and tree.base_commit != commit:
                    self._renew(tx, replace(tree, base_commit=commit, head=commit), why=why)
                else:
                    self._set_head(tx, commit, why)
                if move is not None:
                    move.set(store, commit, f"{why} of {tree}")
        full_tag = str(move) if move is not None else None
        return Committed(str(tree), commit, tree.commit, commit != tree.commit, full_tag, warnings)

    def keep(self, why: str) -> str | None:
        """Commit, untagged, what it holds beyond its last commit; None where that is nothing.

        Base and upperdir stay; the reflog names the commit.
        """
        tree = self.worktree
        self.flush()
        with self._store.begin(f"committing {self}") as tx:
            commit = self._write(tx, tree)
            self._set_head(tx, commit, why)
        return commit if commit != tree.commit else None

    def fold(self) -> None:
        """Make its last commit, which it shows, its base, with an empty upperdir. Nobody may have it in use."""
        commit = self.worktree.commit
        self.flush()
        with self._store.begin(f"folding {self}") as tx:
            self._renew(tx, replace(self.worktree, base_commit=commit, head=commit))

    def _tag_move(self, tag: str | None, force: bool) -> TagMove | None:
        if tag is None:
            return None
        from stratum.api.tagmoves import tag_move

        name, tag = parse_new_tag(tag)
        move = tag_move(self._store, name or self.stratum, tag, force=force)
        move.check(None)
        return move

    def _write(
        self,
        tx: Transaction,
        tree: Worktree,
        *,
        message: str | None = None,
        paused: InUse | None = None,
        warn: Warn = lambda warning: None,
        accept: Callable[[str], None] = lambda commit: None,
        once_read: Callable[[], object] = lambda: None,
    ) -> str:
        """Make the commit of what it shows, or showed where ``tree`` is what it was. ``accept`` is what
        ``Commits.write`` takes."""
        base = self._store.commits.open_tree(tree.base_commit)
        with _standing_still(self._place, paused):
            root = _read(self._place, tx, base, tree, warn)
        once_read()
        made = self._store.commits.write(
            tx,
            root,
            parent=tree.commit,
            message=message,
            origin={"kind": "worktree", "worktree": str(self)},
            timestamp=self._place.now(),
            known=base,
            accept=accept,
        )
        return made.metadata_hash

    def _set_head(self, tx: Transaction, commit: str, why: str) -> None:
        if commit != self.worktree.commit:
            self.worktree = self._store.worktrees.set_head(self.stratum, self.name, commit, why=why, tx=tx)

    # Another base, another upperdir

    def write_upperdir(self, tx: Transaction, upperdir: Path) -> None:
        """Give it another upperdir (from ``Worktrees.new_upperdir``) over the same base. Nobody has it in use."""
        self.flush()
        self._renew(tx, self.worktree, upperdir)

    def _renew(self, tx: Transaction, wanted: Worktree, upperdir: Path | None = None, *, why: str = "") -> None:
        self.worktree = self._store.worktrees.renew(tx, wanted, upperdir, why=why)

    def replace(
        self,
        base: str,
        why: str,
        *,
        build_upper: BuildUpper | None = None,
        discard: bool = False,
        force: bool = False,
    ) -> str | None:
        """Put it on the commit ``base``, its last commit from now on, mounted or not, with the upperdir that
        ``build_upper`` makes (default: an empty one).

        What it holds uncommitted is committed first, untagged; that commit, or None where there is nothing or with
        ``discard``. Nothing is changed before ``build_upper`` returns. Of a mounted worktree it is called while that
        takes no writes, but for ``force``. ``BusyError`` lists the processes with files open for writing, unless
        ``force``.
        """
        from stratum.store.ancestry import Ancestry

        store, tree, record = self._store, self.worktree, self.reachable_mount()
        forked_from = Ancestry(store).fork_on(tree.forked_from, tree.commit, base)
        wanted = replace(tree, base_commit=base, head=base, forked_from=forked_from)

        def prepare(tx: Transaction) -> tuple[Path, str | None]:
            upperdir = build_upper(tx) if build_upper is not None else store.worktrees.new_upperdir(tx, base, of=tree)
            self.flush()
            return upperdir, None if discard else self.keep(KEPT_BEFORE + why)

        if record is not None:
            return self._replace_live(record, wanted, prepare, why, force=force, discard=discard)
        with store.begin(f"{why}: {tree}") as tx:
            upperdir, kept = prepare(tx)
            self._renew(tx, wanted, upperdir, why=why)
        return kept

    def _replace_live(
        self,
        record: Record,
        wanted: Worktree,
        prepare: Callable[[Transaction], tuple[Path, str | None]],
        why: str,
        *,
        force: bool,
        discard: bool,
    ) -> str | None:
        from stratum.mount.swap import swapping

        store, placed, problems = self._store, False, list[str]()
        with swapping(record, force=force) as live:
            copied = live.has_copies()
            self._place.image(wanted.base_commit)  # or its error, before anything is changed
            try:
                with store.begin(f"{why}: {self}") as tx:
                    upperdir, kept = prepare(tx)
                    last = self.worktree.commit
                    self.worktree = store.worktrees.switch(tx, wanted, upperdir, record.mount_id, why=why)
                    placed = True
                shown = self._show_in(live, record, problems)
            except BaseException:
                if placed:
                    with store.begin(f"undoing {why}: {self}") as tx:
                        store.worktrees.undo_switch(tx, self.stratum, self.name)
                    del self.worktree
                raise
        self._confirm(record, *shown)
        for problem in problems:
            self._note(problem)
        if copied and not discard:
            self._keep_retired("kept from what was shown before", known=last)
        store.worktrees.drop_retired(self.stratum, self.name)
        return kept

    def _keep_retired(self, why: str, *, known: str | None = None) -> None:
        """Commit, untagged, what the retired upperdir holds, unless that is the commit ``known``; the reflog names
        it."""
        store, name = self._store, (self.stratum, self.name)
        interrupted = store.worktrees.interrupted_switch(*name)
        if interrupted is None or interrupted.old is None:
            return
        with store.begin(f"settling {self}") as tx:
            commit = self._write(tx, interrupted.old)
            if commit != known:
                store.worktrees.note(*name, commit, why)

    def show_anew(self, options: Mapping[str, str] | None = None) -> list[str]:
        """Have its mount, which is there, and the copies of that be made anew, and so get a gate that is served, with
        ``options``. In words, the copies for which that could not be done.

        Nobody is asked to close anything: files that are open stay with the old mount, and what is written to them is
        in the same upperdir. Raises what ``mount.swap`` raises.
        """
        from stratum.mount.swap import swapping

        record, problems = self.mounted, list[str]()
        assert record is not None
        with swapping(record, force=True) as live:
            shown = self._show_in(live, record, problems, options)
        self._confirm(record, *shown)
        return problems

    def _show_in(
        self,
        live: LiveMount,
        record: Record,
        problems: list[str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> tuple[int, bool]:
        """Let its mount show it as it is now: (the mount ID, whether it has a gate)."""
        plan = self.plan(read_only=record.read_only, source=record.source, options=options)
        with self.roomy():
            return live.show(plan, problems=problems), plan.gate is not None

    def _confirm(self, record: Record, mount_id: int, gate: bool) -> None:
        """Note what its mount shows now."""
        base = self.worktree.base_commit
        self.mounted = self._place.state.confirm(record, mount_id, commit=base, gate=gate)

    # What a killed switch left

    def _settle(self) -> None:
        """Finish what a killed switch left.

        A mount that was left refusing writes takes them again. One that still shows the retired upperdir is switched;
        what it holds beyond what was kept is committed, untagged, and the reflog names it.
        """
        store, record, name = self._store, self.mounted, (self.stratum, self.name)
        if record is not None:
            from stratum.mount.record import takes_writes

            if not takes_writes(record):
                from stratum.mount.swap import allow_writes

                allow_writes(record)
        if not store.worktrees.has_leftovers(*name):
            return
        if record is None:
            self.refuse_in_use()  # by somebody who may still have the retired upperdir mounted
        interrupted = store.worktrees.interrupted_switch(*name)
        if interrupted is not None and interrupted.old is not None:
            if record is not None and interrupted.mount_id == record.mount_id:
                from stratum.mount.swap import swapping

                with swapping(record, force=True) as live:
                    shown = self._show_in(live, record, [])
                self._confirm(record, *shown)
            self._keep_retired("kept from an interrupted switch")
        store.worktrees.drop_retired(*name)


@contextmanager
def taken(place: Workplace, stratum: str, name: str, *, timeout: float | None = None) -> Iterator[Held]:
    """Hold the lock of a worktree, which is there, for the block. For ``Session.hold``, which says what it raises."""
    with place.store.worktrees.lock(stratum, name, timeout=WORKTREE_WAIT if timeout is None else timeout):
        held = Held(place, stratum, name)
        held._settle()
        yield held


def _read(
    place: Workplace,
    tx: Transaction | None,
    base: Directory,
    tree: Worktree,
    warn: Warn,
    unlike: Directory | None = None,
) -> Directory:
    from stratum.ingest import worktree

    dialect = place.store.worktrees.readable(tree)
    if dialect is None:
        return base
    if tx is None and unlike is not None:
        return worktree.compare_upperdir(
            place.store.objects, base, tree.upperdir, [unlike], warn, metadata_tells=False, dialect=dialect
        )
    if tx is None:
        return worktree.hash_upperdir(place.store.objects, base, tree.upperdir, warn, dialect=dialect)
    return worktree.store_upperdir(tx, place.store.objects, base, tree.upperdir, warn, place.progress, dialect=dialect)


@contextmanager
def _standing_still(place: Workplace, user: InUse | None) -> Iterator[None]:
    """Pause the container, if any, that has the worktree, or raise what says why that cannot be done."""
    with ExitStack() as held:
        if user is not None and user.container is not None:
            from stratum.podman.pausing import paused

            try:
                held.enter_context(paused(user.container, place.config.environment))
            except StratumError as exc:
                raise type(exc)(
                    f"container {user.container[:12]} cannot be paused, so nothing was committed: {exc.message}",
                    hint="try again, or --no-pause to commit while it goes on writing: its files may then be of"
                    " different moments",
                ) from None
        yield
