"""Patchsets: an ordered list of patches merged onto a base into one commit.

::

    [patchset]
    base = "myapp:stable"                  # optional; without it the first patch is the ground
    patches = ["myapp:loader", "myapp:mod-a", "a1b2c3d4e5f6..."]
    ignore_case = true                     # optional; names are spelled as what lies below (``tree.spelling``)

Patches are commits: their trees are laid over one another as overlayfs would stack them, later ones over earlier ones,
with ``.wh.`` files, kernel whiteouts and opaque markers taken as deletions. A patch that was made on top of another
commit is a full tree and brings all of it. The merge happens in memory, so nothing but the result reaches the store,
and the same inputs give the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stratum import toml
from stratum.errors import NotFoundError, UsageError, os_error_text
from stratum.refs import DEFAULT_TAG, Ref, parse_ref, parse_tag

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.metadata import CommitMeta
    from stratum.tree.model import Directory
    from stratum.tree.spelling import Pair

_MAX_FILE = 4 << 20
_KEYS = ("base", "patches", "ignore_case")


@dataclass(frozen=True, slots=True)
class Patchset:
    """A parsed patchset file: refs as they stand there, in order, and whether names that differ in case are one."""

    base: Ref | None
    patches: tuple[Ref, ...]
    ignore_case: bool = False


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
            raise UsageError(f"{source}: unknown key {key!r} in [patchset]", hint=f"known keys: {', '.join(_KEYS)}")
    patches = table.get("patches")
    if not isinstance(patches, list) or not patches:
        raise UsageError(f"{source}: 'patches' must be a list of at least one ref")
    base, ignore_case = table.get("base"), table.get("ignore_case", False)
    if not isinstance(ignore_case, bool):
        raise UsageError(f"{source}: 'ignore_case' must be true or false")
    return Patchset(
        base=None if base is None else _ref(base, source),
        patches=tuple(_ref(patch, source) for patch in patches),
        ignore_case=ignore_case,
    )


def _ref(value: Any, source: str) -> Ref:
    if not isinstance(value, str):
        raise UsageError(f"{source}: a ref must be a string, not {value!r}")
    try:
        return parse_ref(value)
    except UsageError as exc:
        raise UsageError(f"{source}: {exc.message}", hint=exc.hint) from None


def read_patchset(path: str, ignore_case: bool | None = None) -> Patchset:
    """Read and parse the patchset file at ``path``. ``ignore_case``, where given, counts more than the file's."""
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
    found = parse_patchset(text, path)
    return found if ignore_case is None else replace(found, ignore_case=ignore_case)


@dataclass(frozen=True, slots=True)
class Applied:
    """One layer of a patchset, in order: the ref as written, its commit, and what it brings.

    ``paths`` counts its entries, ``added`` those that no earlier layer has, ``size`` is of its files. ``overrides``
    lists the paths that it replaces, ``deletes`` those that are gone with it, each with the ref of the layer that put
    them there.
    """

    ref: str
    commit: str
    paths: int
    added: int
    size: int
    overrides: list[tuple[bytes, str]]
    deletes: list[tuple[bytes, str]]
    over_base: int
    """How many of those that it overrides or deletes are the base's."""
    respelled: list[Pair]
    """Its names that were spelled as what lies below, with what they are now."""
    differing: list[Pair]
    """Its names that differ in case only from others, of its own or of what lies below, and stayed so."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that several layers besides the base bring or delete: their refs in order, and the one whose file is there
    in the end; None where the last of them deletes it."""

    path: bytes
    refs: tuple[str, ...]
    wins: str | None


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged tree, what each layer did to it (the first is the ground), and what they contend for."""

    tree: Directory
    layers: list[Applied]
    conflicts: list[Conflict]


def merge_patchset(session: Session, patchset: Patchset) -> Merged:
    """Resolve every ref, then merge in memory. ``NotFoundError`` and ``ConflictError`` as for any ref."""
    from stratum.tree.merge import apply_layer
    from stratum.tree.patch import layer_from_patch_tree
    from stratum.tree.spelling import differing, respelled, twins

    store = session.store
    refs = ([patchset.base] if patchset.base is not None else []) + list(patchset.patches)
    commits = [(str(ref), store.resolve_commit(ref)) for ref in refs]
    tree: Directory | None = None
    account = _Account([ref for ref, _ in commits], has_base=patchset.base is not None)
    for number, (_, commit) in enumerate(commits):
        layer = store.commits.tree(commit)
        renamed: list[Pair] = []
        if tree is None and patchset.base is not None:
            alike = twins(layer)
            tree = layer
        else:
            layer = layer_from_patch_tree(layer)
            alike = twins(layer)
            below = tree if tree is not None else layer.with_children({})
            if patchset.ignore_case:
                layer, renamed = respelled(below, layer)
            else:
                alike += differing(below, layer)
            tree = apply_layer(below, layer)
        account.add(number, commit, layer, renamed, alike)
    assert tree is not None
    return Merged(tree, account.layers, account.conflicts())


class _Account:
    """Who put what where, layer by layer."""

    def __init__(self, refs: list[str], *, has_base: bool) -> None:
        self.layers: list[Applied] = []
        self._refs = refs
        self._base = 0 if has_base else -1
        self._owners: dict[bytes, int] = {}  # path -> the number of the layer that put it there last
        self._contended: dict[bytes, list[int]] = {}

    def add(self, number: int, commit: str, layer: Directory, respelled: list[Pair], differing: list[Pair]) -> None:
        """Take the next layer into account."""
        from stratum.tree.model import Directory, File, Whiteout, walk

        entries = [(path, inode) for path, inode in walk(layer) if not isinstance(inode, Directory) or inode.opaque]
        brought = {path for path, inode in entries if not isinstance(inode, (Directory, Whiteout))}
        hiding = {path for path, _ in entries}
        hidden = sorted(path for path in self._owners if any(above in hiding for above in _and_above(path)))
        owners = [(path, self._owners.pop(path)) for path in hidden]
        for path, owner in owners:
            if owner != self._base:
                self._contended.setdefault(path, [owner]).append(number)
        self._owners.update(dict.fromkeys(brought, number))
        applied = Applied(
            ref=self._refs[number],
            commit=commit,
            paths=len(entries),
            added=len(brought.difference(hidden)),
            size=sum(inode.size for inode in {id(i): i for _, i in entries if isinstance(i, File)}.values()),
            overrides=[(path, self._refs[owner]) for path, owner in owners if path in brought],
            deletes=[(path, self._refs[owner]) for path, owner in owners if path not in brought],
            over_base=sum(owner == self._base for _, owner in owners),
            respelled=respelled,
            differing=differing,
        )
        self.layers.append(applied)

    def conflicts(self) -> list[Conflict]:
        """What several layers contend for, by path."""
        found = []
        for path, numbers in sorted(self._contended.items()):
            last = self._owners.get(path)
            named = dict.fromkeys(numbers if last is None else [*numbers, last])
            found.append(
                Conflict(
                    path, tuple(self._refs[number] for number in named), None if last is None else self._refs[last]
                )
            )
        return found


def _and_above(path: bytes) -> Iterator[bytes]:
    """``path`` and every directory above it but the root."""
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def build_patchset(
    session: Session,
    path: str,
    target: str,
    *,
    message: str | None = None,
    force: bool = False,
    ignore_case: bool | None = None,
) -> tuple[Merged, CommitMeta, str]:
    """Merge the patchset file at ``path`` into a commit and point ``target`` (NAME:TAG, NAME) at it.

    The commit's origin records the commit of every ref. ``ignore_case``, where given, counts more than the file's.
    ``ExistsError`` where the tag names another commit, unless
    ``force``; the default tag ``latest`` moves. Returns the merge, the commit and the tag's name.
    """
    from stratum.api.tagmoves import tag_move

    name, tag = parse_tag(target)
    patchset = read_patchset(path, ignore_case)
    store = session.store
    with store.begin(f"building the patchset {path}") as tx:
        merged = merge_patchset(session, patchset)
        move = tag_move(store, name, tag, force=force)
        origin: dict[str, Any] = {
            "kind": "patchset",
            "layers": [{"ref": layer.ref, "commit": layer.commit} for layer in merged.layers],
        }
        if patchset.ignore_case:
            origin["ignore_case"] = True
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
