"""``mount``, ``unmount``, ``commit`` and ``status``: worktrees in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli import everyday
from stratum.cli.app import App, message_option, verb
from stratum.cli.output import NO_STRATA, safe, short
from stratum.cli.reftype import PATH, REF, REF_OR_PATH, WORKTREE_OR_PATH
from stratum.errors import StratumError
from stratum.sys.userns import owns_system

if TYPE_CHECKING:
    from stratum.api.bootmounts import Brought
    from stratum.api.historystatus import HistoryStatus
    from stratum.api.residing import Residings
    from stratum.api.status import StratumStatus, WorktreeStatus
    from stratum.api.uncommitted import Counts
    from stratum.mount.state import Record


@verb(
    "mount",
    examples=[
        ("Mount the worktree 'main' of db, writable", "stratum mount db /srv/db"),
        ("Look at an old commit, read-only", "stratum mount db:v1 /mnt/old"),
        ("Have it mounted there at every start of the machine", "stratum mount db+dev /srv/dev --persist"),
        ("As an ordinary user, where all programs see it", "stratum mount --host db:v1 old"),
    ],
)
@click.argument("ref", metavar="REF", required=False, type=REF)
@click.argument("mountpoint", required=False, type=PATH)
@click.option("--read-only", is_flag=True, help="Mount a worktree without letting anyone write to it.")
@click.option(
    "--persist/--no-persist", default=None, help="Have it mounted there at every start of the machine; or not any more."
)
@click.option("--host", is_flag=True, help="Outside of an ordinary user's session namespace, read-only.")
@click.option("-a", "--all", "everything", is_flag=True, help="Mount everything that is to be mounted at every start.")
def mount(
    app: App,
    ref: str | None,
    mountpoint: str | None,
    read_only: bool,
    persist: bool | None,
    host: bool,
    everything: bool,
) -> None:
    """Mount a worktree (writable) or a tag or commit (read-only) and print where.

    NAME alone is its worktree 'main'. NAME+WORKTREE@CHANGE is what the worktree showed after that operation of its
    history, read-only. Without a MOUNTPOINT one is made in the runtime directory.

    With --persist the mount comes back after a reboot: 'stratum mount --all', which stratum-mounts.service runs, mounts
    it again. --persist and --no-persist of something that is mounted there already change just that. 'unmount' leaves
    it to come back; 'unmount --forget' does not.

    What an ordinary user mounts is seen in that user's session namespace alone: in 'stratum shell' and by rootless
    Podman. With --host a tag or commit is mounted, read-only, where all programs of the user see it; that needs
    fusermount3. For root --host changes nothing.

    --all leaves alone what is mounted already, goes on where one fails, and then ends with exit code 1.

    In fstab, where mount.stratum is linked to /sbin: REF DIRECTORY stratum defaults 0 0
    """
    if everything:
        if ref is not None or read_only or host or persist is not None:
            raise click.UsageError("--all mounts what is on record, and takes no other options or arguments")
        _mount_all(app)
        return
    if ref is None:
        raise click.MissingParameter(param_hint="'REF'", param_type="argument")
    if "@" in ref:
        from stratum.cli.notes import warn_left_out

        warn_left_out(app, ref)
    if host and not owns_system():
        if persist is not None:
            raise click.UsageError("with --host nothing is mounted at every start; leave out --persist")
        from stratum.api.visible import mount_visible

        everyday.print_mount(app, mount_visible(app.session_outside, ref, mountpoint))
    elif persist is None:
        everyday.mount(app, ref, mountpoint, read_only=read_only)
    else:
        from stratum.api.bootmounts import mount_kept

        record = mount_kept(app.session, ref, mountpoint, read_only=read_only, keep=persist)
        everyday.print_mount(app, record, persist)


def _mount_all(app: App) -> None:
    from stratum.api.bootmounts import mount_all

    brought = []
    for item in mount_all(app.session):
        brought.append(item)
        if app.out.json:
            continue
        if item.error is not None:
            about = f"{item.ref} at {safe(item.mountpoint)}: " if item.ref else ""
            app.out.warn(about + item.error.message.replace("\n", " "))
        elif item.state == "mounted":
            app.out.line(safe(item.mountpoint))
        else:
            app.out.note(f"{item.ref} is mounted at {safe(item.mountpoint)} already")
    if app.out.json:
        app.out.object([_brought_json(item) for item in brought])
    failed = [item for item in brought if item.error is not None]
    if failed:
        raise StratumError(
            f"{len(failed)} of {len(brought)} could not be mounted",
            hint="mend the cause and repeat it, or give one up: stratum unmount --forget MOUNTPOINT",
        )
    if not brought:
        app.out.note("nothing is to be mounted at every start; 'stratum mount --persist' makes it so")


def _brought_json(item: Brought) -> dict[str, Any]:
    error = item.error
    return {
        "ref": item.ref,
        "mountpoint": item.mountpoint,
        "read_only": item.read_only,
        "state": item.state,
        "error": None if error is None else {"id": error.id, "message": error.message, "hint": error.hint},
    }


@verb(
    "unmount",
    examples=[
        ("Unmount by place", "stratum unmount /srv/db"),
        ("Unmount wherever it is mounted", "stratum unmount db+dev"),
        ("And do not mount it at the next start again", "stratum unmount --forget /srv/dev"),
    ],
)
@click.argument("target", metavar="MOUNTPOINT|REF", type=REF_OR_PATH)
@click.option("--forget", is_flag=True, help="And do not mount it again at the next start of the machine.")
def unmount(app: App, target: str, forget: bool) -> None:
    """Unmount what Stratum mounted at MOUNTPOINT, or wherever REF is mounted.

    What was mounted with --persist comes back at the next start, or by 'stratum mount --all'; --forget ends that, also
    for what is not mounted now.
    """
    everyday.unmount(app, target, forget=forget)


@verb(
    "commit",
    examples=[
        ("Commit the worktree 'main' of db", "stratum commit db -m 'before the upgrade'"),
        ("Commit another worktree, and tag the commit", "stratum commit db+dev v2"),
        ("Commit what is mounted here", "stratum commit"),
        (
            "Have Redis write all it has first, while its container runs",
            "stratum commit cache --quiesce 'redis-cli save'",
        ),
    ],
)
@click.argument("target", metavar="[REF|PATH]", required=False, type=WORKTREE_OR_PATH)
@click.argument("tag", required=False)
@click.option("-f", "--force", is_flag=True, help="Move TAG if it exists.")
@click.option("--no-pause", is_flag=True, help="Do not pause the container that has the worktree meanwhile.")
@click.option("--quiesce", metavar="COMMAND", help="Run this in the container that has the worktree first.")
@click.option("--unquiesce", metavar="COMMAND", help="Run this in it afterwards, however the commit went.")
@click.option("--no-quiesce", is_flag=True, help="Run no command in it, whatever its volume says.")
@message_option
def commit(
    app: App,
    target: str | None,
    tag: str | None,
    force: bool,
    no_pause: bool,
    message: str | None,
    quiesce: str | None,
    unquiesce: str | None,
    no_quiesce: bool,
) -> None:
    """Make a commit of what a worktree shows now, and point TAG at it.

    The worktree is given as NAME+WORKTREE (NAME alone: 'main') or as a path at or below where it is mounted; without
    either it is the one that is mounted at the current directory. A mounted worktree stays mounted and is not
    disturbed, but a container that has it is paused while it is read; where it cannot be paused, nothing is committed.
    What is mounted on the host is not held still: files that programs change meanwhile may be of different moments.
    A TAG that exists is an error unless --force moves it.

    The commands are those of the options pre-commit= and post-commit= of the container's volume, where it has them, or
    those given here. /bin/sh runs them in the container, with its rights, before it is paused and after it goes on.
    Where the first one fails nothing is committed; the second runs in any case.
    """
    from stratum.api.quiescing import Quiesce

    if no_quiesce and (quiesce is not None or unquiesce is not None):
        raise click.UsageError("--no-quiesce runs no command: leave out --quiesce and --unquiesce")
    commands = Quiesce(quiesce, unquiesce, none=no_quiesce)
    everyday.commit(app, target, tag, force=force, message=message, pause=not no_pause, quiesce=commands)


@verb(
    "status",
    examples=[
        ("Everything", "stratum status"),
        ("One worktree: is it clean?", "stratum status db+dev"),
        ("What is mounted here", "stratum status ."),
        ("One line for the prompt of a shell, nothing outside of strata", "stratum status --short"),
    ],
)
@click.argument("target", metavar="[REF|MOUNTPOINT]", required=False, type=REF_OR_PATH)
@click.option("-s", "--short", is_flag=True, help="One line about where one is, or about a path, for a shell's prompt.")
def status(app: App, target: str | None, short: bool) -> None:
    """Show mounts, holders, commits and changes of a worktree, a stratum, or everything.

    Of a worktree: what is not committed ('clean' where all of it is), its last commit, its base, and what it has
    changed in that. In JSON, 'uncommitted' and 'since_base' count paths as {added, modified, deleted}; 'clean' is true
    where nothing is uncommitted; 'added', 'modified' and 'deleted' are those of 'since_base'.

    Where its history is kept: since when, whether somebody watches, what was done and is not recorded yet, and which
    files are open for writing, which have no version before they are closed; of one worktree also how often nobody
    watched today, and what the history takes. In JSON 'history', null where none is kept.

    Where a base, or a tag that is mounted, is not here whole: how much of it is, where the rest is, and whether that
    can be reached; in JSON 'residence', null for what is here whole.

    --short prints one line about the worktree that the working directory, or a path, is in, such as 'db+main* v2': '*'
    where something is not committed, '?' where a short look does not tell; the tag of its last commit, or the commit;
    'rec' while its history is kept, 'gap' while nobody watches; 'lazy' where its base is not here whole, 'ro' where it
    is read-only. It prints nothing outside of strata, and what it cannot find out is left out.
    """
    if short:
        from stratum.cli.prompt import print_prompt

        print_prompt(app.session, app.out, target or ".")
        return
    from stratum.api.bootmounts import damaged_records
    from stratum.api.residing import Residings
    from stratum.api.status import status as run

    strata, residings = run(app.session, target), Residings(app.session)
    for error in damaged_records(app.session):
        app.out.warn(error.message)
    if app.out.json:
        app.out.object([_stratum_json(stratum, residings) for stratum in strata])
        return
    if not strata:
        app.out.note(NO_STRATA)
    for stratum in strata:
        _print_status(app, stratum, residings)
    if any(record.in_session for stratum in strata for record in _mounts(stratum)):
        from stratum.cli.notes import visible_in

        app.out.note(f"mounts of this user's session are {visible_in(app)}")


def _unserved(record: Record) -> str:
    """What to do about a mount of a user's whose server was killed."""
    from stratum.sys import userns

    if userns.is_privileged() or record.attended or record.mount_id is None:
        return ""
    from stratum.mount.swap import has_lost_server

    return "; its server was killed: stratum reconcile" if has_lost_server(record) else ""


def _mounts(stratum: StratumStatus) -> list[Record]:
    return [*stratum.mounted_tags, *(record for tree in stratum.worktrees for record in tree.mounts)]


def _print_status(app: App, stratum: StratumStatus, residings: Residings) -> None:
    app.out.line(stratum.name or "(commits without a stratum's name)")
    for tag in stratum.mounted_tags:
        app.out.line(f"  {tag.ref}  read-only at {safe(tag.mountpoint)} ({tag.held_by()}){_unserved(tag)}")
        _print_residing(app, residings, tag.commit)
    for ref, mountpoint in stratum.tags_at_boot:
        app.out.line(f"  {ref}  at boot {safe(mountpoint)}")
    for tree in stratum.worktrees:
        app.out.line(f"  +{tree.name}")
        if tree.description:
            app.out.line(f"    description  {safe(tree.description)}")
        app.out.line(f"    uncommitted  {_uncommitted(tree)}")
        head = f"{short(tree.head)}  {tree.head_time}" if tree.head else "none made from it yet"
        app.out.line(f"    last commit  {head}")
        since = "" if tree.changes.unread else f"  ({_counted(tree.changes.since_base) or 'no changes'} since)"
        app.out.line(f"    base         {short(tree.base)}{since}")
        _print_residing(app, residings, tree.base)
        for record in tree.mounts:
            held = f"{record.held_by()}, since {record.since}"
            app.out.line(f"    mounted      {safe(record.mountpoint)} ({held}){_unserved(record)}")
        if not tree.mounts:
            app.out.line(f"    mounted      {safe(tree.held) if tree.held else 'no'}")
        if tree.waiting:
            app.out.line(f"    waiting      what {safe(tree.waiting)} left is not committed yet: stratum reconcile")
        for mountpoint in tree.at_boot:
            app.out.line(f"    at boot      {safe(mountpoint)}")
        if tree.history is not None:
            from stratum.cli.versions import status_text

            app.out.line(f"    history      {status_text(tree.history)}")
        if tree.lease_error and tree.lease_error != tree.changes.unread:
            app.out.line(f"    failed       {safe(tree.lease_error)}")


def _print_residing(app: App, residings: Residings, commit: str) -> None:
    """Say what is here of a commit, where that is not all."""
    found = residings.of(commit)
    if found is not None:
        from stratum.cli.residing import residing_text

        app.out.line(f"    content      {residing_text(found)}")


def _residence(residings: Residings, commit: str) -> dict[str, Any] | None:
    found = residings.of(commit)
    if found is None:
        return None
    from stratum.cli.residing import residing_json

    return residing_json(found)


def _history_json(history: HistoryStatus) -> dict[str, Any]:
    from stratum.cli.versions import status_json

    return status_json(history)


def _uncommitted(tree: WorktreeStatus) -> str:
    if tree.changes.unread:
        return f"not known: {safe(tree.changes.unread)}"
    if tree.changes.uncommitted is None:
        return "not known: its last commit is not in the store"
    return _counted(tree.changes.uncommitted) or "clean"


def _counted(counts: Counts) -> str:
    """In words; nothing where nothing changed."""
    return f"{counts.added} added, {counts.modified} modified, {counts.deleted} deleted" if counts.total else ""


def _counts_json(counts: Counts) -> dict[str, int]:
    return {"added": counts.added, "modified": counts.modified, "deleted": counts.deleted}


def _stratum_json(stratum: StratumStatus, residings: Residings) -> dict[str, Any]:
    return {
        "name": stratum.name,
        "tags": stratum.tags,
        "mounted_tags": [
            {**record.to_json(), "residence": _residence(residings, record.commit)} for record in stratum.mounted_tags
        ],
        "at_boot": [{"ref": ref, "mountpoint": mountpoint} for ref, mountpoint in stratum.tags_at_boot],
        "worktrees": [
            {
                "name": tree.name,
                "description": tree.description,
                "base": tree.base,
                "head": tree.head,
                "head_time": tree.head_time,
                "clean": tree.changes.uncommitted is not None and not tree.changes.uncommitted.total,
                "uncommitted": None if tree.changes.uncommitted is None else _counts_json(tree.changes.uncommitted),
                "since_base": _counts_json(tree.changes.since_base),
                **_counts_json(tree.changes.since_base),
                "mounts": [record.to_json() for record in tree.mounts],
                "at_boot": tree.at_boot,
                "held": tree.held,
                "waiting": tree.waiting,
                "failed": tree.lease_error,
                "residence": _residence(residings, tree.base),
                "history": None if tree.history is None else _history_json(tree.history),
            }
            for tree in stratum.worktrees
        ],
    }
