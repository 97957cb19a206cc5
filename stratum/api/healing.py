"""Mounts whose gate nobody serves any more, because its keeper and its worker were both killed, get a new one.

What is not here of such a mount fails when it is read. Nothing of that is touched to find it out: the keeper says what
it serves, and the record of mounts what there should be. The new mount takes the place of the old one in one step
(``mount.swap``), over the same upperdir, and whoever reads there goes on. So it does for a mount that was made when its
commit was here whole, and has no gate; and for one of a user's whose server of names was killed (``mount.plan.Lower``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import NotFoundError, StratumError
from stratum.frozen import frozen, replace
from stratum.mount.plan import gate_starts_keeper
from stratum.refs import parse_ref
from stratum.sys import userns

if TYPE_CHECKING:
    from stratum.mount.state import Record
    from stratum.sys.mountinfo import MountEntry

    Each = Callable[[Record], Mapping[str, str]]

_HANDING_OVER = 0.5
"""Seconds in which a worker whose keeper was killed finds another."""


@frozen
class Healed:
    """A mount that was made anew, or the ``error`` that says why not. ``problems``: copies of it that were not.

    ``now`` is what it does now.
    """

    record: Record
    problems: list[str]
    error: StratumError | None = None
    now: str = "fetches again what is read there"


def heal(session: Session, options: Mapping[str, str] | None = None, each: Each | None = None) -> list[Healed]:
    """Have every mount of the store made anew that needs a gate, or a server of its names, and has none; what was done.

    ``options`` are those of the new gates (``Workplace.gate``), and ``each`` has more for a mount: those that they had
    are gone with their keeper.
    Costs next to nothing where all commits that are mounted are here whole. Nothing that is wrong with one mount keeps
    the others from being healed. Raises ``StratumError`` where the keeper does not answer.
    """
    found = session.state.of_store(session.store.root)
    records = [record for record in found if record.mount_id is not None and not record.attended]
    done = [] if userns.is_privileged() else _with_new_servers(session, records, options)
    replaced = {healed.record.id for healed in done}
    needing = [record for record in records if record.id not in replaced and _needs_gate(session, record)]
    if not needing:
        return done
    start = gate_starts_keeper(options or {})
    served = _served(session, start)
    if served is not None and any(record.id not in served for record in needing):
        time.sleep(_HANDING_OVER)
        served = _served(session, start)
    if served is None:
        return done
    missing = [record for record in needing if record.id not in served]
    more = each or (lambda _record: {})
    return done + [
        healed for record in missing for healed in _healed(session, record, {**(options or {}), **more(record)})
    ]


def _with_new_servers(session: Session, records: list[Record], options: Mapping[str, str] | None) -> list[Healed]:
    """The mounts that nobody served any more, made anew."""
    from stratum.mount.swap import has_lost_server

    lost = [record for record in records if has_lost_server(record)]
    done = [healed for record in lost for healed in _healed(session, record, options)]
    return [replace(healed, now="is served again") for healed in done]


def heal_by_the_way(session: Session, options: Mapping[str, str] | None = None, each: Each | None = None) -> list[str]:
    """The same by somebody who came for something else: what went wrong, and what was done, a line each."""
    try:
        done = heal(session, options, each)
    except StratumError as exc:
        return [f"mounts that fetch what is read were not looked at: {exc.told}"]
    lines = []
    for healed in done:
        place = f"{healed.record.ref} at {healed.record.mountpoint}"
        lines += [f"{place}: {problem}" for problem in healed.problems]
        lines.append(f"{place}: {healed.error.told if healed.error else healed.now}")
    return lines


def _needs_gate(session: Session, record: Record) -> bool:
    return session.store.sources.is_partial(record.commit)


def _served(session: Session, start: bool) -> set[str] | None:
    """The IDs of the mounts that the keeper serves. Where there is none, one is started, which others may wait for;
    without ``start`` the answer is None."""
    from stratum.mount.gate import ask_keeper

    answers = ask_keeper(session.config.runtime_dir, {"op": "list"}, start=start)
    if not answers:
        return None
    sources = [str(each["source"]) for answer in answers for each in answer["connections"]]
    return {source.removeprefix("stratum-").partition(":")[0] for source in sources}


def _healed(session: Session, record: Record, options: Mapping[str, str] | None) -> list[Healed]:
    show = _show_worktree if record.is_worktree else _show_commit
    try:
        problems = show(session, record, options)
    except NotFoundError:  # it was unmounted meanwhile, or removed
        return []
    except StratumError as exc:
        return [Healed(record, [], exc)]
    return [Healed(record, problems)]


def _show_worktree(session: Session, record: Record, options: Mapping[str, str] | None) -> list[str]:
    with session.hold(parse_ref(record.ref)) as held:
        if held.mounted is None or held.mounted.id != record.id:
            raise NotFoundError(f"{record.mountpoint} does not show {record.ref} any more")
        return held.show_anew(options)


def _show_commit(session: Session, record: Record, options: Mapping[str, str] | None) -> list[str]:
    from stratum.mount.swap import swapping

    problems = list[str]()
    with session.store.locks.store(), swapping(record, force=True) as live:
        plan = session.plan(
            record.commit,
            *_scratch(record, live.entry),
            read_only=record.read_only,
            source=record.source,
            options=options,
        )
        mount_id = live.show(plan, problems=problems)
    session.state.confirm(record, mount_id, gate=plan.gate is not None)
    return problems


def _scratch(record: Record, entry: MountEntry) -> tuple[Path | None, Path | None]:
    """The upperdir and workdir of a commit's mount whose writes are thrown away with the container: in its bundle. The
    kernel tells where, of the mount that was put on record and no other, as anybody may make one that says so."""
    options = dict(option.partition("=")[::2] for option in entry.super_options.split(","))
    if "upperdir" not in options:
        return None, None
    upper, work = Path(options["upperdir"]), Path(options.get("workdir", ""))
    if entry.device != record.device or upper.parent != work.parent or not upper.is_dir() or not work.is_dir():
        raise StratumError(
            f"it is not known where {record.held_by()} writes what it writes at {record.mountpoint}",
            hint="start the container again",
        )
    return upper, work
