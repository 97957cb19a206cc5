"""``patchset build|show``: many patches, one commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, VerbsBelow, message_option, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import PATH, REF

if TYPE_CHECKING:
    from stratum.api.patchset import Applied, Conflict

_WARNED = 10
"""Most names that are warned of one by one."""


@click.group("patchset", cls=VerbsBelow)
def patchset() -> None:
    """Merge an ordered list of patches onto a base into one commit.

    What is merged is in a file:

    \b
        [patchset]
        base = "game:vanilla"
        patches = ["game:loader", "game:textures", "game:quests"]
        ignore_case = true

    'base' and each of 'patches' is any ref that names a commit. Patches are laid over the base in their order, and what
    a later one brings wins. One deletes with an empty file '.wh.NAME', and with '.wh..wh..opq' in a directory all that
    was in it. Without 'base' the first patch is the ground. With 'ignore_case' (or --ignore-case) names that differ in
    case only are one, spelled as they are below.
    """


def _ignore_case_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--ignore-case/--no-ignore-case",
        default=None,
        help="Take names that differ in case only for one, as the file's 'ignore_case' says else.",
    )(function)


@verb(
    "build",
    short_help="Merge what a file lists into one commit.",
    examples=[
        ("Merge what a file lists, and tag the result", "stratum patchset build mods.toml game:modded"),
        ("Mods that were packed on Windows", "stratum patchset build --ignore-case mods.toml game:modded"),
    ],
)
@click.argument("file", metavar="FILE", type=PATH)
@click.argument("target", metavar="NAME[:TAG]", type=REF)
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@_ignore_case_option
@message_option
def build(app: App, file: str, target: str, force: bool, ignore_case: bool | None, message: str | None) -> None:
    """Merge what the patchset FILE lists and point NAME:TAG at the result.

    FILE is TOML; 'stratum help patchset' says what is in it.
    """
    from stratum.api.patchset import build_patchset

    merged, meta, ref = build_patchset(app.session, file, target, message=message, force=force, ignore_case=ignore_case)
    note_uncommitted(app, *(layer.ref for layer in merged.layers))
    if app.out.json:
        layers = [_layer_json(layer) for layer in merged.layers]
        app.out.object({"ref": ref, "commit": meta.metadata_hash, "layers": layers})
        return
    _tell_spelling(app, merged.layers)
    app.out.line(meta.metadata_hash)
    app.out.note(
        f"{ref} is {short(meta.metadata_hash)}: {len(merged.layers)} layers, {meta.file_count} files, "
        f"{human_size(meta.total_size)}"
    )


@verb(
    "show",
    short_help="Show what a file would apply, in order.",
    examples=[
        ("What overrides what?", "stratum patchset show mods.toml"),
        ("Which mods contend for a file, and which wins?", "stratum patchset show --conflicts mods.toml"),
        ("How much does each bring?", "stratum patchset show --stat mods.toml"),
    ],
)
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--conflicts", "how", flag_value="conflicts", help="Only what several patches contend for, not the base.")
@click.option("--stat", "how", flag_value="stat", help="Only numbers, a line for each layer.")
@_ignore_case_option
def show(app: App, file: str, how: str | None, ignore_case: bool | None) -> None:
    """Show what the patchset FILE would apply, in order, and what overrides what. Nothing is written.

    FILE is TOML; 'stratum help patchset' says what is in it.
    """
    from stratum.api.patchset import merge_patchset, read_patchset

    merged = merge_patchset(app.session, read_patchset(file, ignore_case))
    note_uncommitted(app, *(layer.ref for layer in merged.layers))
    if how == "conflicts":
        _show_conflicts(app, merged.conflicts)
    elif how == "stat":
        _show_stat(app, merged.layers)
    elif app.out.json:
        app.out.object([_layer_json(layer) for layer in merged.layers])
    else:
        _show_layers(app, merged.layers)
    if not app.out.json:
        _tell_spelling(app, merged.layers)


def _show_layers(app: App, layers: Sequence[Applied]) -> None:
    for number, layer in enumerate(layers, 1):
        app.out.line(f"{number}. {layer.ref}  {short(layer.commit)}  {layer.paths} paths")
        told = [(path, "overrides", ref) for path, ref in layer.overrides]
        told += [(path, "deletes that of", ref) for path, ref in layer.deletes]
        for path, what, earlier in sorted(told):
            app.out.line(f"   {safe(path)}  {what} {earlier}")


def _show_conflicts(app: App, conflicts: Sequence[Conflict]) -> None:
    if app.out.json:
        app.out.object(
            [{"path": safe(found.path), "refs": list(found.refs), "wins": found.wins} for found in conflicts]
        )
        return
    for found in conflicts:
        *others, last = found.refs
        verdict = "wins over" if found.wins is not None else "deletes that of"
        app.out.line(f"{safe(found.path)}  {last} {verdict} {', '.join(others)}")
    if not conflicts:
        app.out.note("no two patches contend for a path")


def _show_stat(app: App, layers: Sequence[Applied]) -> None:
    if app.out.json:
        app.out.object([_stat_json(layer) for layer in layers])
        return
    rows = []
    for layer in layers:
        stat = _stat_json(layer)
        counts = [stat[key] for key in ("added", "over_base", "over_patches", "deleted")]
        rows.append([layer.ref, short(layer.commit), *map(str, counts), human_size(layer.size)])
    app.out.table(["LAYER", "COMMIT", "ADDS", "OVER BASE", "OVER PATCHES", "DELETES", "SIZE"], rows)


def _stat_json(layer: Applied) -> dict[str, Any]:
    return {
        "ref": layer.ref,
        "commit": layer.commit,
        "paths": layer.paths,
        "added": layer.added,
        "over_base": layer.over_base,
        "over_patches": len(layer.overrides) + len(layer.deletes) - layer.over_base,
        "deleted": len(layer.deletes),
        "size": layer.size,
    }


def _tell_spelling(app: App, layers: Sequence[Applied]) -> None:
    """Say which names differ in case only, as far as that is bearable, and how many were spelled anew."""
    respelled = sum(len(layer.respelled) for layer in layers)
    if respelled:
        app.out.note(f"{respelled} names are spelled as what lies below them")
    differing = [(layer.ref, *pair) for layer in layers for pair in layer.differing]
    for ref, path, other in differing[:_WARNED]:
        app.out.warn(f"{ref}: {safe(path)} differs from {safe(other)} in case only")
    if len(differing) > _WARNED:
        app.out.warn(f"so do {len(differing) - _WARNED} more names; --format json has them all")


def _layer_json(layer: Applied) -> dict[str, Any]:
    return {
        **_stat_json(layer),
        "overrides": [{"path": safe(path), "ref": earlier} for path, earlier in layer.overrides],
        "deletes": [{"path": safe(path), "ref": earlier} for path, earlier in layer.deletes],
        "respelled": [{"path": safe(path), "as": safe(other)} for path, other in layer.respelled],
        "differing_in_case": [{"path": safe(path), "other": safe(other)} for path, other in layer.differing],
    }


for _command in (build, show):
    patchset.add_command(_command)
