"""Notes of several verbs: what NAME alone is, where a user may have thought of something else; where a mount can be
seen."""

from __future__ import annotations

import os

from stratum.cli.output import short
from stratum.cli.work import Work
from stratum.errors import StratumError
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, parse_ref, split_ref_path


def note_uncommitted(app: Work, *refs: str | None) -> None:
    """One line where some of ``refs``, of which a verb takes the commits, are NAME alone and its worktree ``main`` has
    uncommitted changes. A warning where a commit of an earlier state cannot have all that was there. Whatever keeps
    that from being found out is no error of the verb."""
    whole = dict.fromkeys(split_ref_path(text)[0] for text in refs if text is not None)
    for text in whole:
        if "@" in text:
            warn_left_out(app, text)
    if app.out.quiet or app.out.json:
        return
    from stratum.api.uncommitted import uncommitted_main

    found = []
    for text in whole:
        try:
            tree = uncommitted_main(app.session, parse_ref(text))
        except StratumError:  # the verb says it better
            continue
        if tree is not None:
            found.append(
                f"{text} is commit {short(tree.commit)} here, and {tree} has uncommitted changes"
                f" ('stratum commit {text}' commits them)"
            )
    if found:
        app.out.note("; ".join(found))


def warn_left_out(app: Work, text: str) -> None:
    """Say what is not in the commit of NAME+WORKTREE@CHANGE, as nobody knows its content."""
    from stratum.api.reading import warning_of
    from stratum.api.versions import up_to_date

    try:
        ref, changes = parse_ref(text), app.session.store.changes
        up_to_date(app.session, *changes.worktree_of(ref))
        unknown = changes.state(ref).whole()[1]
    except StratumError:  # the verb says it better
        return
    if unknown:
        app.out.warn(warning_of(unknown, str(ref)))


def note_main(app: Work, ref: str, commit: str) -> None:
    """One line where NAME:latest has come to ``commit`` and NAME alone, its worktree ``main``, is elsewhere."""
    name, _, tag = ref.partition(":")
    if app.out.quiet or app.out.json or tag != DEFAULT_TAG:
        return
    store = app.session.store
    try:
        if not store.worktrees.exists(name, DEFAULT_WORKTREE):
            return
        main = store.worktrees.get(name, DEFAULT_WORKTREE)
    except StratumError:
        return
    if main.commit != commit:
        brings = f"'stratum rebase {name} {ref}' brings it here"
        app.out.note(f"{name} alone is {main}, which stays at {short(main.commit)} ({brings})")


def visible_in(app: Work) -> str:
    """Where mounts of a user's session are to be seen."""
    places = "stratum shell, stratum unshare"
    directories = app.session.config.environment.get("PATH", "").split(os.pathsep)
    if any(os.access(os.path.join(directory, "podman"), os.X_OK) for directory in directories):
        places += ", podman unshare, podman run -v"
    return f"visible in: {places}"
