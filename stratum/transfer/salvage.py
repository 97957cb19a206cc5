"""Bringing back what a damaged store lacks, from any place that a commit can be pulled from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.descriptor import Descriptor
from stratum.oci.places import open_source
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target
from stratum.transfer.artifact import Manifest, read_manifest
from stratum.transfer.objects import WORKERS, ObjectFetch, fetch_objects, find_parts, read_packs
from stratum.transfer.pull import pulled
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import running

if TYPE_CHECKING:
    from stratum.store import Store

ARTIFACTS_MAX = 1000
"""No more artifacts of one place are looked through."""


def salvage(
    store: Store, source: Target, access: Access, objects: dict[bytes, int], frames: set[bytes], commits: set[str]
) -> list[str]:
    """Fetch what is there of ``objects`` (digest -> size in bytes), ``frames`` (SHA-256, as of tree layers) and
    ``commits`` (hashes), which are missing or cannot be read; what went wrong, in words.

    The artifact that ``source`` names is looked through first, then the others of its repository, until all is found:
    for frames first, as commits may be whole with these. Everything that arrives is checked as in a pull. An artifact
    that cannot be read does not keep the others from being. Raises ``StratumError`` where the place cannot be reached
    at all.
    """
    problems: list[str] = []
    with open_source(source, access) as remote:
        references = _references(remote, source)
        for look in (_frames, _commits, _objects):
            for reference in references:
                wanted = _Wanted(
                    dict(store.residence.lacking(objects.items())),
                    {digest for digest in frames if not store.trees.has_frame(digest)},
                    {commit for commit in commits if not can_be_read(store, commit)},
                )
                try:
                    if not look(store, remote, reference, wanted):
                        break
                except NotFoundError:
                    continue
                except StratumError as exc:
                    if exc.message not in problems:
                        problems.append(exc.message)
    return problems


class _Wanted(NamedTuple):
    """What is still to be found."""

    objects: dict[bytes, int]
    frames: set[bytes]
    commits: set[str]


def can_be_read(store: Store, commit: str) -> bool:
    """Whether the store has the commit, with its tree."""
    try:
        store.commits.dump(commit)
    except (NotFoundError, DamagedError):
        return False
    return True


def _references(remote: Source, source: Target) -> list[str]:
    others = [tag for tag in remote.list_tags() if tag != source.reference]
    return [source.reference, *others][:ARTIFACTS_MAX]


def _manifest(remote: Source, reference: str) -> Manifest:
    return read_manifest(remote.get_manifest(reference)[0], str(remote.target))


def _frames(store: Store, remote: Source, reference: str, wanted: _Wanted) -> bool:
    """Look for frames among the tree layers of an artifact; whether there was anything to look for. So the others."""
    if wanted.frames:
        layers = [layer for layer in _manifest(remote, reference).trees if _sha256(layer) in wanted.frames]
        if layers:
            with store.begin(f"fetching trees from {remote.target}") as tx:
                for layer in layers:
                    tx.add_frame(fetch(remote, layer))
                tx.publish_objects()
    return bool(wanted.frames)


def _sha256(layer: Descriptor) -> bytes:
    return bytes.fromhex(layer.digest.removeprefix("sha256:"))


def _commits(store: Store, remote: Source, reference: str, wanted: _Wanted) -> bool:
    if wanted.commits and _manifest(remote, reference).commit in wanted.commits:
        with pulled(store, remote, reference, kind="repair"):
            pass
    return bool(wanted.commits)


def _objects(store: Store, remote: Source, reference: str, wanted: _Wanted) -> bool:
    if wanted.objects:
        where = str(remote.target)
        what, manifest = f"fetching objects from {where}", _manifest(remote, reference)
        with store.begin(what) as tx, running(what, 1, None) as job:
            with ThreadPoolExecutor(WORKERS) as pool:
                packs = read_packs(manifest.packs, partial(fetch, remote), where, pool)
            files = PackFiles(store.layout, tx.directory, remote)
            objects = ObjectFetch(remote, tx.object_staging, files, job)
            fetch_objects(store, tx, objects, find_parts(packs, wanted.objects))
    return bool(wanted.objects)
