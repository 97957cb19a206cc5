"""A layer with what it lies over, and the commit that becomes of both."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import ConflictError, DamagedError, StratumError, UsageError, quoted
from stratum.fs.contents import Contents, DirectoryContents, MemoryContents
from stratum.fs.layer import Changes, Layer, written
from stratum.fs.layerlog import LOCK, LOG, FileLog, Log, MemoryLog
from stratum.fs.opened import BytesContent, Content, ObjectContent, Opened
from stratum.fs.opening import Opener
from stratum.oci.places import open_source
from stratum.refs import check_name, parse_new_tag, parse_ref
from stratum.store.layout import storing
from stratum.store.resolve import ResolvedTag
from stratum.sys.atomic import is_temporary
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.transaction import Transaction

MEMORY = "memory"
_AT_DIGEST = "@sha256:"
_PIECE = 1 << 20
OBJECTS = "objects"


class _Base:
    """The commit that a layer lies over. An object of its own, so that a layer in memory is gone with who has it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self.opened: Opened | None = None

    def open(self, commit: str, origin: str) -> Directory:
        """Open it anew; its tree."""
        if _AT_DIGEST in origin:
            opened, _ = self._opener.open_place(self._opener.target(origin))
            if opened.commit != commit:
                raise DamagedError(f"{origin} is commit {opened.commit}, and the layer lies over {commit}")
        else:
            opened = self._opener.open_local(commit)
        self.opened = opened
        return opened.root


class Layered:
    """A layer over a commit. ``origin`` is the tag or other ref that the commit was named by, or the reference of a
    place, with the digest of the manifest."""

    def __init__(self, opener: Opener, log: Log, contents: Contents) -> None:
        self._opener = opener
        self.lasting = isinstance(log, FileLog)
        self._base = _Base(opener)
        self.layer = Layer(log, contents, self._base.open)

    def begin(self, ref: str | None, place: str | None) -> None:
        """Have a new layer lie over what ``ref`` or ``place`` names; one that is there already must lie over that."""
        log = self.layer.log
        if not isinstance(log, FileLog):
            self.layer.begin(*self._named(ref, place))
            return
        with log.writing():
            begun = log.exists
            if not begun:
                if ref is None and place is None:
                    raise UsageError("a new layer needs what it lies over", hint="give a ref or a place")
                self.layer.begin(*self._named(ref, place))
        if begun and (ref is not None or place is not None):
            self._check(ref, place)

    def _named(self, ref: str | None, place: str | None) -> tuple[str, str]:
        """(commit, origin) of what is named now."""
        if place is not None:
            target = self._opener.target(place)
            opened, digest = self._opener.open_place(target)
            return opened.commit, str(replace(target, digest=digest))
        found = self._opener.session.store.resolve(parse_ref(ref or ""))
        return found.commit, str(found)

    def _check(self, ref: str | None, place: str | None) -> None:
        self.layer.snapshot()
        base, origin = self.layer.base, self.layer.origin
        given = ref if ref is not None else place or ""
        if given == origin or (place is not None and origin.startswith(f"{self._opener.target(place).place}@")):
            return
        commit, named = self._named(ref, place)
        if commit != base and named != origin:
            raise UsageError(
                f"the layer lies over commit {base} ({origin}), and {given} is commit {commit}",
                hint=f"open it with {origin}, or use another directory",
            )

    # Reading

    @property
    def base(self) -> Opened:
        """The commit that it lies over now."""
        assert self._base.opened is not None
        return self._base.opened

    def tree(self) -> Directory:
        """What is shown now."""
        return self.layer.snapshot()

    @property
    def when(self) -> datetime:
        """The time of the commit below."""
        return self.base.when

    @property
    def remote(self) -> bool:
        """Whether contents of the commit below come from elsewhere."""
        return self.base.remote

    def content(self, file: File) -> Content:
        """Open the content of a file of the tree."""
        kept = self.layer.contents.open(file.digest) if file.digest is not None else None
        if kept is None:
            return self.base.content(file)
        return ObjectContent(kept) if isinstance(kept, int) else BytesContent(kept)

    def changing(self) -> AbstractContextManager[Changes]:
        """A block of changes (``Layer.changing``)."""
        return self.layer.changing()

    # The commit

    def flatten(self, tag: str | None, message: str | None, force: bool) -> str:
        """Make the commit of what is shown, and have ``tag`` name it; the commit's hash. Then the layer lies over that,
        with nothing in it."""
        made = ""

        def make(root: Directory) -> tuple[str, str]:
            nonlocal made
            name, short = self._tag(tag)
            made = self._commit(root, name, short, message, force)
            return made, f"{name}:{short}"

        self.layer.become(make)
        return made

    def _tag(self, text: str | None) -> tuple[str, str]:
        """(stratum, tag) that ``flatten`` is to set."""
        origin = self.layer.origin
        ref = parse_ref(origin) if _AT_DIGEST not in origin else None
        if text is None:
            if ref is None or ref.tag is None or not self._is_tag(origin):
                raise UsageError(f"{origin} is no tag that could move", hint="say which: flatten(tag='NAME:TAG')")
            return check_name(ref.name), check_name(ref.tag, "tag")
        name, tag = parse_new_tag(text)
        if name is None and ref is not None and self._opener.session.store.namespaces.exists_name(ref.name):
            name = ref.name
        if name is None:
            raise UsageError(f"{origin} is in no stratum of the store", hint=f"say in which: flatten(tag='NAME:{tag}')")
        return name, tag

    def _is_tag(self, origin: str) -> bool:
        ref = parse_ref(origin)
        store = self._opener.session.store
        try:
            return isinstance(store.resolve(ref), ResolvedTag)
        except StratumError:
            return ref.tag is not None and ref.tag != self.layer.base  # a tag that somebody removed

    def _commit(self, root: Directory, name: str, tag: str, message: str | None, force: bool) -> str:
        session, origin, base = self._opener.session, self.layer.origin, self.layer.base
        store = session.create_store()
        expected = base if f"{name}:{tag}" == origin else None

        def accept(commit: str) -> None:
            found = store.tags.find(name, tag) if not force else None
            if found not in (None, commit, expected) or (found is None and expected is not None and not force):
                raise _moved(f"{name}:{tag}", found, expected)

        with ExitStack() as stack:
            known: Directory | None = self.base.root
            if _AT_DIGEST in origin:
                known = None
                self._bring(stack, store, origin)
            tx = stack.enter_context(store.begin(f"flattening a layer over {origin}"))
            self._add_contents(tx, root)
            meta = store.commits.write(
                tx,
                root,
                parent=base,
                message=message,
                origin={"kind": "layer", "base": origin},
                timestamp=session.now(),
                known=known,
                accept=accept,
            )
            commit = meta.metadata_hash
            if force:
                store.tags.set(name, tag, commit, force=True, why="flatten")
            else:
                store.tags.set(name, tag, commit, expected=expected, why="flatten")
            return commit

    def _bring(self, stack: ExitStack, store: Store, origin: str) -> None:
        """Have the commit of a place in the store, without its contents, for as long as ``stack`` is open."""
        from stratum.transfer.pull import pulled

        target, access = self._opener.target(origin), self._opener.access()
        remote = stack.enter_context(open_source(target, access))
        stack.enter_context(pulled(store, remote, target.reference, access=access, lazy=True))

    def _add_contents(self, tx: Transaction, root: Directory) -> None:
        for digest, size in written(root):
            kept = self.layer.contents.open(digest)
            if kept is None:
                continue
            try:
                if not tx.has(digest, size) and tx.add_pieces(_pieces(kept), size) != digest:
                    raise DamagedError(f"content {digest.hex()} of the layer does not match its digest")
            finally:
                if isinstance(kept, int):
                    os.close(kept)


def open_layer(opener: Opener, text: str, ref: str | None, place: str | None) -> Layered:
    """The layer that ``text`` says: ``memory``, or a directory. ``StratumError``, ``OSError``."""
    if text == MEMORY:
        key = (str(opener.session.config.store), ref, place)
        known = _in_memory.get(key)
        if known is None:
            known = Layered(opener, MemoryLog(), MemoryContents())
            known.begin(ref, place)
            known = _in_memory.setdefault(key, known)
        return known
    if not text or "://" in text:
        raise UsageError(
            f"{quoted(text)} is no place for a layer", hint="give a directory of this machine, or 'memory'"
        )
    directory = Path(text).absolute()
    with storing(f"make {directory}"):
        directory.mkdir(0o700, parents=True, exist_ok=True)
    _check_ours(directory)
    layered = Layered(opener, FileLog(directory), DirectoryContents(directory / OBJECTS))
    layered.begin(ref, place)
    return layered


def _check_ours(directory: Path) -> None:
    """Refuse a directory in which there is anything but a layer: what is in its ``objects`` would be taken away with
    the next ``flatten``."""
    with storing(f"read {directory}"):
        names = {name for name in os.listdir(directory) if not is_temporary(name)}
    if LOG not in names and names - {LOCK}:
        raise UsageError(f"{directory} is no layer, and not empty", hint="give a directory that is empty, or not there")


_in_memory: weakref.WeakValueDictionary[tuple[str | None, ...], Layered] = weakref.WeakValueDictionary()


def _moved(tag: str, found: str | None, expected: str | None) -> ConflictError:
    if expected is None:
        words = f"the tag {tag} exists already and names commit {found}"
        return ConflictError(words, hint="give another tag, or force=True to move this one")
    what = f"moved to {found}" if found is not None else "removed"
    return ConflictError(
        f"the tag {tag} was {what} by somebody else meanwhile; the layer lies over {expected}",
        hint="give another tag, or force=True to have it name what is in the layer",
    )


def _pieces(kept: int | bytes) -> Iterable[bytes]:
    if isinstance(kept, bytes):
        yield kept
        return
    while piece := os.read(kept, _PIECE):
        yield piece
