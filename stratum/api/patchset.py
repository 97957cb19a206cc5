"""Patchsets: an ordered list of patches merged onto a base into one commit.

::

    [patchset]
    base = "myapp:stable"                  # optional; without it the first patch is the ground
    patches = ["myapp:loader", "myapp:mod-a", "a1b2c3d4e5f6..."]

Patches are commits: their trees are laid over one another as overlayfs would stack them, later ones over earlier ones,
with ``.wh.`` files, kernel whiteouts and opaque markers taken as deletions. A patch that was made on top of another
commit is a full tree and brings all of it. The merge happens in memory, so nothing but the result reaches the store,
and the same inputs give the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stratum import toml
from stratum.errors import NotFoundError, UsageError, os_error_text
from stratum.refs import DEFAULT_TAG, Ref, parse_ref, parse_tag

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.metadata import CommitMeta
    from stratum.tree.model import Directory

_MAX_FILE = 4 << 20
_KEYS = {"base", "patches"}


@dataclass(frozen=True, slots=True)
class Patchset:
    """A parsed patchset file: refs as they stand there, in order."""

    base: Ref | None
    patches: tuple[Ref, ...]


def parse_patchset(text: str, source: str) -> Patchset:
    """Parse a patchset file's text; ``UsageError`` names ``source`` and what is wrong. Unknown keys are wrong."""
    try:
        document = toml.loads(text)
    except ValueError as exc:
        raise UsageError(f"{source} is not valid TOML: {exc}") from None
    table = document.pop("patchset", None)
    if document:
        raise UsageError(
            f"{source}: unknown key {next(iter(document))!r}", hint="all keys belong into the table [patchset]"
        )
    if not isinstance(table, dict):
        raise UsageError(f"{source} has no table [patchset]")
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{source}: unknown key {key!r} in [patchset]", hint="known keys: base, patches")
    patches = table.get("patches")
    if not isinstance(patches, list) or not patches:
        raise UsageError(f"{source}: 'patches' must be a list of at least one ref")
    base = table.get("base")
    return Patchset(
        base=None if base is None else _ref(base, source),
        patches=tuple(_ref(patch, source) for patch in patches),
    )


def _ref(value: Any, source: str) -> Ref:
    if not isinstance(value, str):
        raise UsageError(f"{source}: a ref must be a string, not {value!r}")
    try:
        return parse_ref(value)
    except UsageError as exc:
        raise UsageError(f"{source}: {exc.message}", hint=exc.hint) from None


def read_patchset(path: str) -> Patchset:
    """Read and parse the patchset file at ``path``."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_FILE + 1)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a patchset file: it is not UTF-8 text") from None
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {os_error_text(exc)}") from None
    if len(text) > _MAX_FILE:
        raise UsageError(f"{path} is not a patchset file: it is larger than {_MAX_FILE >> 20} MiB")
    return parse_patchset(text, path)


@dataclass(frozen=True, slots=True)
class Applied:
    """One layer of a patchset, in order: the ref as written, its commit, and what it brings.

    ``paths`` counts its entries; ``overrides`` lists the paths where it replaces or deletes what an earlier layer put
    there, each with the ref of that layer.
    """

    ref: str
    commit: str
    paths: int
    overrides: list[tuple[bytes, str]]


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged tree and what each layer did to it; the first is the ground."""

    tree: Directory
    layers: list[Applied]


def merge_patchset(session: Session, patchset: Patchset) -> Merged:
    """Resolve every ref, then merge in memory. ``NotFoundError`` and ``ConflictError`` as for any ref."""
    from stratum.tree.merge import apply_layer
    from stratum.tree.patch import layer_from_patch_tree

    store = session.store
    refs = ([patchset.base] if patchset.base is not None else []) + list(patchset.patches)
    commits = [(str(ref), store.resolve_commit(ref)) for ref in refs]
    tree: Directory | None = None
    origin: dict[bytes, str] = {}
    layers = []
    for ref, commit in commits:
        source = store.commits.tree(commit)
        if tree is None and patchset.base is not None:
            tree, layer = source, source
        else:
            layer = layer_from_patch_tree(source)
            tree = apply_layer(tree if tree is not None else source.with_children({}), layer)
        layers.append(_applied(ref, commit, layer, origin))
    assert tree is not None
    return Merged(tree, layers)


def _applied(ref: str, commit: str, layer: Directory, origin: dict[bytes, str]) -> Applied:
    """What ``layer`` brings; ``origin`` (path -> the ref that put it there last) is brought up to date."""
    from stratum.tree.model import Directory, Whiteout, walk

    entries = [(path, inode) for path, inode in walk(layer) if not isinstance(inode, Directory) or inode.opaque]
    hiding = {path for path, _ in entries}
    hidden = [path for path in origin if any(above in hiding for above in _and_above(path))]
    overrides = [(path, origin.pop(path)) for path in sorted(hidden)]
    origin.update((path, ref) for path, inode in entries if not isinstance(inode, (Directory, Whiteout)))
    return Applied(ref, commit, len(entries), overrides)


def _and_above(path: bytes) -> Iterator[bytes]:
    """``path`` and every directory above it but the root."""
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def build_patchset(
    session: Session, path: str, target: str, *, message: str | None = None, force: bool = False
) -> tuple[Merged, CommitMeta, str]:
    """Merge the patchset file at ``path`` into a commit and point ``target`` (NAME:TAG, NAME) at it.

    The commit's origin records the commit of every ref. ``ExistsError`` where the tag names another commit, unless
    ``force``; the default tag ``latest`` moves. Returns the merge, the commit and the tag's name.
    """
    from stratum.api.tagmoves import tag_move

    name, tag = parse_tag(target)
    patchset = read_patchset(path)
    store = session.store
    with store.begin(f"building the patchset {path}") as tx:
        merged = merge_patchset(session, patchset)
        move = tag_move(store, name, tag, force=force)
        origin: dict[str, Any] = {
            "kind": "patchset",
            "layers": [{"ref": layer.ref, "commit": layer.commit} for layer in merged.layers],
        }
        meta = store.commits.write(
            tx,
            merged.tree,
            parent=merged.layers[0].commit,
            message=message,
            origin=origin,
            timestamp=session.now(),
            accept=lambda made: move.check(made, follows=tag == DEFAULT_TAG),
        )
        move.set(store, meta.metadata_hash, f"patchset {path}")
    return merged, meta, str(move)
