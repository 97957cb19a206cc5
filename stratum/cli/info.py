"""``version`` and ``info``: what is installed, and what it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum import __version__
from stratum.cli.app import App, verb
from stratum.cli.output import human_size, safe
from stratum.errors import one_line

if TYPE_CHECKING:
    from stratum.api.info import Info, StoreInfo


@verb("version", examples=[("For a script", "stratum version --format json")])
def version(app: App) -> None:
    """Print the version."""
    if app.out.json:
        app.out.object({"version": __version__})
    else:
        app.out.line(f"stratum {__version__}")


@verb(
    "info",
    examples=[
        ("What a report of a problem should have", "stratum info"),
        ("Of another store", "stratum --store /backup info"),
    ],
)
def info(app: App) -> None:
    """Show the version, the store and how much is in it, the kernel and which of its features are there.

    What volumes in containers need besides is checked by 'stratum hook doctor', and what takes the room on the disk is
    shown by 'stratum du'.
    """
    from stratum.api.info import info as run

    found = run(app.session)
    if app.out.json:
        app.out.object(_json(found))
        return
    rows = [
        ("version", found.version),
        ("python", found.python),
        ("kernel", f"{one_line(found.kernel)} ({one_line(found.architecture)}), layers by {found.layers}"),
        ("user", "root" if found.root else f"not root: {_mounts(app)}"),
        ("store", safe(found.store.path)),
        *_store_rows(found.store),
        ("runtime", safe(found.runtime_dir)),
        ("registry", safe(found.registry) if found.registry else "none set"),
    ]
    rows += [(each.name, one_line(each.problem) if each.problem else f"yes ({each.what})") for each in found.features]
    for name, text in rows:
        app.out.line(f"{name:<10}{text}")


def _mounts(app: App) -> str:
    from stratum.sys.userns import in_initial_namespace, owns_system

    if in_initial_namespace():
        return "a session namespace for mounts is made when one is needed"
    if owns_system():
        return "mounts are this container's or namespace's own"
    from stratum.cli.notes import visible_in

    return f"mounts are {visible_in(app)}"


def _store_rows(store: StoreInfo) -> list[tuple[str, str]]:
    rows = []
    if store.size is not None and store.free is not None:
        rows.append(("", f"{human_size(store.free)} of {human_size(store.size)} free"))
    counts = store.counts
    if counts is None:
        return [*rows, ("", safe(store.problem or ""))]
    rows.append(("", f"format {store.format}"))
    rows.append(
        ("", f"{counts.strata} strata, {counts.tags} tags, {counts.worktrees} worktrees, {counts.commits} commits")
    )
    return [*rows, ("", f"{counts.mounts} mounts")]


def _json(found: Info) -> dict[str, object]:
    store = found.store
    counts = store.counts
    return {
        "version": found.version,
        "python": found.python,
        "kernel": found.kernel,
        "architecture": found.architecture,
        "root": found.root,
        "store": {
            "path": safe(store.path),
            "format": store.format,
            "strata": counts and counts.strata,
            "tags": counts and counts.tags,
            "worktrees": counts and counts.worktrees,
            "commits": counts and counts.commits,
            "mounts": counts and counts.mounts,
            "disk_size": store.size,
            "disk_free": store.free,
            "problem": store.problem,
        },
        "runtime_dir": safe(found.runtime_dir),
        "registry": found.registry,
        "layers": found.layers,
        "features": [{"name": f.name, "available": f.problem is None, "problem": f.problem} for f in found.features],
    }
