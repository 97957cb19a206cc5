"""Bringing back what a damaged store lacks, from any place that a commit can be pulled from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import Source, fetch
from stratum.oci.target import Target
from stratum.transfer.artifact import Manifest, read_manifest
from stratum.transfer.catalogs import access_to, target_of
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
    with open_source(source, access) as remote:
        others = [tag for tag in remote.list_tags() if tag != source.reference]
        search = _Search(store, remote, [source.reference, *others][:ARTIFACTS_MAX])
        search.frames(frames)
        search.commits(commits)
        search.objects(objects)
    return search.problems


def salvage_from_sources(store: Store, access: Access, frames: set[bytes], commits: set[str]) -> list[str]:
    """The same of frames and commits, from where the commits can be fetched from, as the store knows; also what could
    not be reached."""
    problems: list[str] = []
    asked: set[str] = set()
    for commit in sorted(commits):
        with suppress(DamagedError):  # of what tells of its sources
            for source in store.sources.of(commit):
                if source.reference in asked or source.gone is not None or can_be_read(store, commit):
                    continue
                asked.add(source.reference)
                try:
                    with open_source(target_of(source), access_to(access, source)) as remote:
                        search = _Search(store, remote, [source.manifest])
                        search.frames(frames)
                        search.commits({commit})
                except StratumError as exc:
                    problems.append(exc.message)
                else:
                    problems += search.problems
    return problems


def can_be_read(store: Store, commit: str) -> bool:
    """Whether the store has the commit, with its tree."""
    try:
        store.commits.dump(commit)
    except (NotFoundError, DamagedError):
        return False
    return True


class _Search:
    """Of some artifacts of a place, each of which is asked for once; ``problems`` says in words what went wrong."""

    def __init__(self, store: Store, remote: Source, references: Sequence[str]) -> None:
        self._store = store
        self._remote = remote
        self._references = references
        self._manifests: dict[str, Manifest | None] = {}
        self.problems: list[str] = []

    def _each(self) -> Iterator[tuple[str, Manifest]]:
        for reference in self._references:
            if reference not in self._manifests:
                self._manifests[reference] = None
                with self._telling():
                    data = self._remote.get_manifest(reference)[0]
                    self._manifests[reference] = read_manifest(data, str(self._remote.target))
            if (manifest := self._manifests[reference]) is not None:
                yield reference, manifest

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except NotFoundError:
            pass
        except StratumError as exc:
            self.problems.append(exc.message)

    def frames(self, frames: set[bytes]) -> None:
        """Look for frames among tree layers."""
        lacking = {digest for digest in frames if not self._store.trees.has_frame(digest)}
        for _, manifest in self._each() if lacking else ():
            layers = [layer for layer in manifest.trees if bytes.fromhex(layer.hex) in lacking]
            if layers:
                with self._telling(), self._store.begin(f"fetching trees from {self._remote.target}") as tx:
                    found = {tx.add_frame(fetch(self._remote, layer)) for layer in layers}
                    tx.publish_objects()
                    lacking -= found
            if not lacking:
                return

    def commits(self, commits: set[str]) -> None:
        """Look for commits. Of one that is not here whole no more is fetched than of it was."""
        lacking = {commit for commit in commits if not can_be_read(self._store, commit)}
        for reference, manifest in self._each() if lacking else ():
            commit = manifest.commit
            if commit in lacking and not can_be_read(self._store, commit):
                lazy = self._store.sources.is_partial(commit)
                with self._telling(), pulled(self._store, self._remote, reference, kind="repair", lazy=lazy):
                    lacking.discard(commit)
            if not lacking:
                return

    def objects(self, objects: dict[bytes, int]) -> None:
        """Look for objects."""
        where = str(self._remote.target)
        lacking = dict(self._store.residence.lacking(objects.items()))
        for _, manifest in self._each() if lacking else ():
            what = f"fetching objects from {where}"
            with self._telling(), self._store.begin(what) as tx, running(what, 1, None) as job:
                with ThreadPoolExecutor(WORKERS) as pool:
                    packs = read_packs(manifest.packs, partial(fetch, self._remote), where, pool)
                files = PackFiles(self._store.layout, tx.directory, self._remote)
                fetched = ObjectFetch(self._remote, tx.object_staging, files, job)
                fetch_objects(self._store, tx, fetched, find_parts(packs, lacking))
            lacking = dict(self._store.residence.lacking(lacking.items()))
            if not lacking:
                return
