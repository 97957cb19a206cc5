"""What ``mount``, ``unmount``, ``commit`` and ``push`` do, which people and scripts wait for many times a day.

Most of the time these are given nothing but what they are about, and loading the library that parses command lines
takes as long as a mount. So a command line of nothing but such words (``plain``) goes without; all others, and all that
fails, are the command line's (``cli/main.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.cli.output import human_size, safe, short
from stratum.cli.work import Work
from stratum.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratum.api.quiescing import Quiesce
    from stratum.mount.state import Record

_QUIET = ("-q", "--quiet")


def plain(args: list[str]) -> Callable[[], None] | None:
    """What runs the command line ``args``, where it is one of a verb of every day and words for it, with ``--quiet`` or
    without; None for every other."""
    verb, *words = [word for word in args if word not in _QUIET] or [""]
    if any(not word or word.startswith("-") or "@" in word for word in words):
        return None
    work = Work(verb, quiet=len(args) > 1 + len(words))
    if verb == "commit" and 1 <= len(words) <= 2:
        return lambda: commit(work, *words)
    if verb == "mount" and 1 <= len(words) <= 2:
        return lambda: mount(work, *words)
    if verb == "unmount" and len(words) == 1:
        return lambda: unmount(work, *words)
    if verb == "push" and 1 <= len(words) <= 2:
        return lambda: push(work, *words)
    return None


def mount(app: Work, ref: str, mountpoint: str | None = None, *, read_only: bool = False) -> None:
    """Mount ``ref`` and print where."""
    from stratum.api.mounting import mount as run

    print_mount(app, run(app.session, ref, mountpoint, read_only=read_only))


def print_mount(app: Work, record: Record, persistent: bool | None = None) -> None:
    """Print a mount that was made; ``persistent``, where that was asked for: whether it comes back."""
    if app.out.json:
        app.out.object(record.to_json() if persistent is None else {**record.to_json(), "persistent": persistent})
        return
    app.out.line(safe(record.mountpoint))
    if record.in_session:
        from stratum.cli.notes import visible_in

        app.out.note(visible_in(app))


def unmount(app: Work, target: str, *, forget: bool = False) -> None:
    """Unmount ``target``, a mountpoint or a ref, and with ``forget`` have it not come back."""
    from stratum.sys.userns import owns_system

    records, forgotten = _unmounted(app, target, forget=forget)
    from stratum.api.bootmounts import is_kept

    session = app.session if owns_system() else app.session_outside
    if app.out.json:
        app.out.object(
            [{"ref": r.ref, "mountpoint": r.mountpoint, "persistent": is_kept(session, r.mountpoint)} for r in records]
        )
        return
    for record in records:
        app.out.note(f"{record.ref} is no longer mounted at {safe(record.mountpoint)}")
        if not forget and is_kept(session, record.mountpoint):
            import shlex

            app.out.note(
                "it comes back at the next start; to end that: stratum unmount --forget "
                + shlex.quote(safe(record.mountpoint))
            )
    for mountpoint in forgotten:
        app.out.note(f"{safe(mountpoint)} is not mounted at the next start")


def _unmounted(app: Work, target: str, *, forget: bool) -> tuple[list[Record], list[str]]:
    """Unmount, first what is outside of an ordinary user's session namespace, before that is entered."""
    from stratum.sys.userns import owns_system

    visible: list[Record] = []
    if not owns_system():
        from stratum.api.visible import unmount_visible

        visible = unmount_visible(app.session_outside, target, warn=app.out.warn)
        if visible and "/" in target:
            return visible, []
    try:
        if forget:
            from stratum.api.bootmounts import unmount_and_forget

            records, forgotten = unmount_and_forget(app.session, target, warn=app.out.warn)
        else:
            from stratum.api.mounting import unmount as run

            records, forgotten = run(app.session, target, warn=app.out.warn), []
    except NotFoundError:
        if not visible:
            raise
        return visible, []
    return visible + records, forgotten


def commit(
    app: Work,
    target: str | None,
    tag: str | None = None,
    *,
    force: bool = False,
    message: str | None = None,
    pause: bool = True,
    quiesce: Quiesce | None = None,
) -> None:
    """Commit what ``target`` shows (None: what is mounted at the working directory) and print the commit. Without
    ``quiesce``, what the volume says is run in a container that has it."""
    from stratum.api.quiescing import Quiesce
    from stratum.cli.progress import progress_bar
    from stratum.sys.malloc import keep_for_reuse

    keep_for_reuse()
    if target is None:
        from stratum.api.naming import here

        target = here(app.session)
    with app.session.hold(target, create=True) as held, progress_bar(app, "committing", late=True) as advance:
        app.session.progress = advance
        done = held.commit(tag=tag, force=force, message=message, pause=pause, quiesce=quiesce or Quiesce())
    for warning in done.warnings:
        app.out.warn(warning)
    if app.out.json:
        app.out.object(
            {
                "worktree": done.worktree,
                "commit": done.commit,
                "parent": done.parent,
                "changed": done.changed,
                "tag": done.tag,
                "warnings": done.warnings,
            }
        )
        return
    app.out.line(done.commit)
    tagged = f", tagged {done.tag}" if done.tag else ""
    if done.changed:
        app.out.note(f"{done.worktree} committed as {short(done.commit)}{tagged}")
    else:
        app.out.note(f"nothing changed in {done.worktree} since {short(done.commit)}{tagged}")


def push(
    app: Work,
    ref: str,
    target: str | None = None,
    *,
    plain_http: bool = False,
    ca_file: str | None = None,
    dry_run: bool = False,
    offline: bool = False,
    keep_tag: bool = False,
    unsafe_concurrent: bool = False,
    image: str | None = None,
) -> None:
    """Push what ``ref`` is to ``target`` and print where it is."""
    from stratum.api.transfer import push as run
    from stratum.cli.notes import note_uncommitted
    from stratum.cli.progress import progress_bar

    note_uncommitted(app, ref)
    with progress_bar(app, "pushing") as advance:
        done = run(
            app.session,
            ref,
            target,
            access=app.session.access(plain_http=plain_http, ca_file=ca_file, unsafe_concurrent=unsafe_concurrent),
            dry_run=dry_run,
            offline=offline,
            keep_tag=keep_tag,
            image=image,
            progress=advance,
        )
    if app.out.json:
        app.out.object(
            {
                "commit": done.commit,
                "target": done.target,
                "manifest": done.manifest_digest,
                "bytes_sent": done.bytes_sent,
                "blobs_sent": done.blobs_sent,
                "blobs_reused": done.blobs_reused,
                "dry_run": dry_run,
            }
        )
        return
    app.out.line(f"{safe(done.target)}@{done.manifest_digest}")
    app.out.note(
        f"{'would send' if dry_run else 'sent'} {human_size(done.bytes_sent)} in {done.blobs_sent} blobs; "
        f"{done.blobs_reused} were there"
    )
