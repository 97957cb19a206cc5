"""What is to be here of a stratum: fetched now and kept, or dropped, by path, as rules of residence for what comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.api.tags import owner_of
from stratum.errors import NotFoundError, StratumError, path_text
from stratum.frozen import field, frozen, replace
from stratum.progress import Progress
from stratum.refs import parse_ref, split_ref_path
from stratum.store.keeping import ROOT, Rule, Rules, check_path
from stratum.tree.escape import escape

if TYPE_CHECKING:
    from stratum.api.workplace import Workplace
    from stratum.hydrate.evict import Evicted
    from stratum.oci.access import Access
    from stratum.tree.blocks import Dump

Objects = Mapping[bytes, int]
"""Digest -> size in bytes."""


@frozen
class Part:
    """What REF[:/PATH] names: ``path`` of the ``commit``, in the stratum ``name``; None for a bare hash."""

    name: str | None
    commit: str
    path: bytes

    def __str__(self) -> str:
        where = self.name or self.commit
        return where if self.path == ROOT else f"{where}:{path_text(self.path)}"


@frozen
class Realized:
    """What became of a part: it has ``objects`` of ``size`` bytes together, of which ``fetched`` were not here before.

    ``rule`` says whether the part is kept from now on, ``unreal`` which paths below it have rules of their own that
    they need not be. ``process`` fetches it, where nobody waited; what it says is in ``log``.
    """

    part: Part
    objects: int
    size: int
    fetched: int
    rule: bool
    unreal: list[bytes] = field(default_factory=list)
    process: int | None = None
    log: str | None = None


def parse_part(text: str) -> tuple[str, bytes]:
    """(REF, PATH) of REF[:/PATH]; the path is ``/`` where none is given. ``UsageError``."""
    ref, path = split_ref_path(text)
    return (ref, check_path(os.fsencode(f"/{path.lstrip('/')}"))) if path is not None else (text, ROOT)


def find_part(session: Session, text: str) -> Part:
    """What REF[:/PATH] names. ``NotFoundError``, also where the commit has no such path; ``UsageError``."""
    from stratum.tree.contents import has_path

    ref, path = parse_part(text)
    found = session.store.resolve(parse_ref(ref))
    if path != ROOT and not has_path(session.store.commits.dump(found.commit), escape(path)):
        raise NotFoundError(
            f"{found} has no {path_text(path)}", hint=f"'stratum diff' and a mount of {ref} show what it has"
        )
    return Part(found.name, found.commit, path)


def realize(
    session: Session,
    text: str,
    *,
    access: Access,
    keep: bool = True,
    wait: bool = True,
    progress: Progress | None = None,
) -> Realized:
    """Have what REF[:/PATH] names here, and with ``keep`` from now on: a rule of its stratum.

    Returns when all of it is in the store, synced; without ``wait``, when a process fetches it. Raises
    ``NotFoundError``, ``UsageError``, and as ``transfer.realize.fetch_missing``.
    """
    from stratum.hydrate.asking import let_off

    part, store = find_part(session, text), session.store
    rules = Rules()
    if keep:
        part, rules = _ruled(session, part, Rule.REAL, "--no-keep")
    needed = objects_below(store.commits.dump(part.commit), part.path, rules)
    with store.locks.store():
        missing = store.residence.missing(needed)
    process = log = None
    if missing and wait:
        bring(session, missing, part.commit, access, progress)
        with suppress(StratumError):  # then peers keep longer what they promised to
            let_off(store, store.sources.of(part.commit), access)
    elif missing:
        process, log = _start(session, text)
    unreal = [path for path, rule in rules.below(part.path).items() if rule is Rule.UNREAL]
    fetched = sum(missing.values()) if wait else 0
    return Realized(part, len(needed), sum(needed.values()), fetched, keep, unreal, process, log)


def realize_ruled(
    session: Session, name: str, commit: str, access: Access, progress: Progress | None = None
) -> tuple[int, int]:
    """Fetch what the rules of the stratum keep of a commit of it: how many objects and bytes that were. Raises as
    ``realize``."""
    from stratum.hydrate.kept import objects_kept

    store = session.store
    rules = store.keeping.of(name)
    if not rules.has(Rule.REAL) or not store.sources.is_partial(commit):
        return 0, 0
    with store.locks.store():
        missing = store.residence.missing(objects_kept(store.commits.dump(commit), rules))
    if missing:
        bring(session, missing, commit, access, progress)
    return len(missing), sum(missing.values())


def objects_below(dump: Dump, path: bytes, rules: Rules) -> dict[bytes, int]:
    """The objects of a dump at and below ``path``, but for those that ``rules`` have as unreal."""
    from stratum.tree.contents import graded_objects

    rule_of = rules.of_lines()
    inside = _inside(path)
    graded = graded_objects(dump, lambda line: int(inside(line) and rule_of(line) is not Rule.UNREAL))
    return {digest: size for digest, (size, grade) in graded.items() if grade}


def _inside(path: bytes) -> Callable[[bytes], bool]:
    """Whether an escaped path of a dump is ``path`` or below it."""
    if path == ROOT:
        return lambda line: True
    itself, below = escape(path), escape(path) + b"/"
    return lambda line: line == itself or line.startswith(below)


def bring(place: Workplace, missing: Objects, commit: str, access: Access, progress: Progress | None = None) -> None:
    """Fetch missing objects of a commit, after there is room for them as far as there can be."""
    from stratum.hydrate.evict import make_room
    from stratum.transfer.realize import fetch_missing, mark_whole

    store = place.store
    make_room(store, place.state, place.config, access, sum(missing.values()))
    fetch_missing(store, missing, access, commits=[commit], jobs=place.config.jobs, progress=progress)
    mark_whole(store, [commit])


def _ruled(session: Session, part: Part, rule: Rule, otherwise: str = "") -> tuple[Part, Rules]:
    """Make ``rule`` that of the part: (the part, in its stratum, and the rules of that). ``otherwise`` is the option
    that needs no stratum."""
    found = _in_stratum(session, part, otherwise)
    assert found.name is not None
    session.store.keeping.set(found.name, part.path, rule)
    return found, session.store.keeping.of(found.name)


def _in_stratum(session: Session, part: Part, otherwise: str = "") -> Part:
    if part.name is not None:
        return part
    better = f"NAME:{part.commit[:12]}" + (f", or {otherwise}" if otherwise else "")
    return replace(part, name=owner_of(session, part.commit, better))


def _start(session: Session, text: str) -> tuple[int, str]:
    """Start a process that realizes the same and waits, in a session of its own: its ID, and its log."""
    import subprocess
    import sys

    from stratum.sys.spawn import search_path

    session.state.make_runtime_dir()
    log = session.config.runtime_dir / "realize.log"
    options = ["--store", str(session.store.root), "--runtime-dir", str(session.config.runtime_dir)]
    program = f"import sys; sys.path[:] = {search_path()!r}; from stratum.cli.start import main; main()"
    command = [sys.executable, "-I", "-c", program, *options, "realize", "--wait", "--no-keep", "--quiet", text]
    with open(log, "ab", opener=_private) as file:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=dict(session.config.environment),
            start_new_session=True,
        )
    return child.pid, str(log)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@frozen
class Unrealized:
    """What became of a part: what was ``evicted`` and what stays; ``real`` are the paths below it that rules of their
    own keep."""

    part: Part
    evicted: Evicted
    real: list[bytes] = field(default_factory=list)


def unrealize(session: Session, text: str, *, access: Access) -> Unrealized:
    """Drop the content of what REF[:/PATH] names, as far as places are known that have it, and have a rule say that it
    need not be here. It comes back when it is read.

    Raises ``NotFoundError``, ``UsageError``, ``BusyError`` where the store is in use, ``DamagedError``.
    """
    from stratum.hydrate.evict import Evictor

    store = session.store
    part, rules = _ruled(session, find_part(session, text), Rule.UNREAL)
    objects = objects_below(store.commits.dump(part.commit), part.path, Rules())
    evictor = Evictor(store, session.state, session.config, access)
    evicted = evictor.evict(lambda held: held, only=objects, older_than=0)
    real = [path for path, rule in rules.below(part.path).items() if rule is Rule.REAL]
    return Unrealized(part, evicted, real)


def let_decide(session: Session, text: str) -> tuple[Part, bool]:
    """Have no rule say what is here of REF[:/PATH], but the cache; whether that changed anything."""
    part = _in_stratum(session, find_part(session, text))
    assert part.name is not None
    return part, session.store.keeping.set(part.name, part.path, Rule.AUTO)
