"""``patchset build|show``: many patches, one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, VerbsBelow, message_option, verb
from stratum.cli.notes import note_uncommitted
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import PATH, REF

if TYPE_CHECKING:
    from stratum.api.patchset import Applied


@click.group("patchset", cls=VerbsBelow)
def patchset() -> None:
    """Merge an ordered list of patches onto a base into one commit."""


@verb(
    "build",
    short_help="Merge what a file lists into one commit.",
    examples=[
        ("Merge what a file lists, and tag the result", "stratum patchset build mods.toml game:modded"),
    ],
)
@click.argument("file", metavar="FILE", type=PATH)
@click.argument("target", metavar="NAME[:TAG]", type=REF)
@click.option("-f", "--force", is_flag=True, help="Move the tag if it exists.")
@message_option
def build(app: App, file: str, target: str, force: bool, message: str | None) -> None:
    """Merge what the patchset FILE lists and point NAME:TAG at the result."""
    from stratum.api.patchset import build_patchset

    merged, meta, ref = build_patchset(app.session, file, target, message=message, force=force)
    note_uncommitted(app, *(layer.ref for layer in merged.layers))
    if app.out.json:
        layers = [_layer_json(layer) for layer in merged.layers]
        app.out.object({"ref": ref, "commit": meta.metadata_hash, "layers": layers})
        return
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
    ],
)
@click.argument("file", metavar="FILE", type=PATH)
def show(app: App, file: str) -> None:
    """Show what the patchset FILE would apply, in order, and what overrides what. Nothing is written."""
    from stratum.api.patchset import merge_patchset, read_patchset

    layers = merge_patchset(app.session, read_patchset(file)).layers
    note_uncommitted(app, *(layer.ref for layer in layers))
    if app.out.json:
        app.out.object([_layer_json(layer) for layer in layers])
        return
    for number, layer in enumerate(layers, 1):
        app.out.line(f"{number}. {layer.ref}  {short(layer.commit)}  {layer.paths} paths")
        for path, earlier in layer.overrides:
            app.out.line(f"   {safe(path)}  overrides {earlier}")


def _layer_json(layer: Applied) -> dict[str, Any]:
    return {
        "ref": layer.ref,
        "commit": layer.commit,
        "paths": layer.paths,
        "overrides": [{"path": safe(path), "ref": earlier} for path, earlier in layer.overrides],
    }


for _command in (build, show):
    patchset.add_command(_command)
