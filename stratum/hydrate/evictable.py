"""What may be evicted from a store: derived each time from what commits need and sources list, noted nowhere.

An object may go where a source is recorded that lists it, for every commit in the store that needs it (also for those
that a garbage collection would take), and each such source was lately seen to have it. So what only this store has can
never go, whatever else went wrong: a commit that was never pushed has no source. Besides, what stays is

- what otherwise only blobs have that were pushed to this store, and what packs are made of that those need which are
  kept of a manifest (``store.repositories``);
- what otherwise only an archive has, which is a file that people remove once they have imported it;
- what a mount shows that has no gate, or one that nobody serves: whoever reads there could not wait for it;
- what a peer counts on (``store.promises``): one source among others is a peer, and is believed only where it has just
  promised to keep what it has;
- what a rule of residence keeps (``store.keeping``), in all commits that its stratum names;
- what the history of a worktree names: its commits come and go;
- what a living transaction needs.

Commits with the same sources are looked at together (``store.needed``): what they share, which is most of it, is read
once. ``Shelf`` remembers some of that from one derivation to the next, as trees never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, UsageError
from stratum.hydrate.kept import commits_named
from stratum.store.coverage import Coverage, Part, lines_in
from stratum.store.keeping import RESIDENCE, ROOT, Rule, Rules
from stratum.store.layout import signature_of
from stratum.store.needed import Needed
from stratum.store.sources import SOURCES, CommitSource
from stratum.transfer.catalogs import target_of
from stratum.tree.contents import digests_in

if TYPE_CHECKING:
    from stratum.store.logcheck import Needs
    from stratum.store.store import Store

_CATALOGS = 4
_REMEMBERED = 1 << 21
"""Objects of commits; 100 bytes each."""


class Why(Enum):
    """Why an object stays, the strongest reason first."""

    LOCAL = "only this store has it"
    ARCHIVE = "besides this store, only an archive file has it"
    GONE = "its source was not seen to have it lately"
    MOUNTED = "a mount without a gate shows it"
    RULE = "a rule keeps it"
    PROMISED = "a peer counts on it"
    HISTORY = "the history of a worktree names it"
    BUSY = "a running command needs it"
    RECENT = "it came just now"


@dataclass(slots=True)
class Derived:
    """``listed`` are the objects that sources list: digest -> size; ``held`` which of them stay, and why; ``first``
    those that rules let go before others. ``unverified`` are the sources that would have to be seen to have what is
    held for that. ``stamp`` is another one where any of that may be otherwise."""

    listed: dict[bytes, int] = field(default_factory=dict)
    held: dict[Why, set[bytes]] = field(default_factory=lambda: {why: set() for why in Why})
    first: set[bytes] = field(default_factory=set)
    unverified: dict[str, CommitSource] = field(default_factory=dict)
    stamp: object = None

    def why(self, digest: bytes) -> Why | None:
        """Why the object stays; None where it may go."""
        return next((why for why, objects in self.held.items() if digest in objects), None)

    def free(self) -> Iterator[bytes]:
        """The objects that may go, be they here or not."""
        held = set[bytes]().union(*self.held.values())
        return (digest for digest in self.listed if digest not in held)


class Shelf:
    """The objects of the commits of ``store``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects: dict[frozenset[str], frozenset[bytes]] = {}
        self._logs: dict[object, Needs] = {}
        self._catalog = lru_cache(_CATALOGS)(self._read_catalog)

    def derive(self, fresh: Callable[[CommitSource], bool], unguarded: Set[str]) -> Derived:
        """What may go now, where a source is believed that is ``fresh``, and ``unguarded`` are the commits that mounts
        show without a gate that is served.

        The caller holds the store's lock. Raises ``DamagedError`` where it cannot be known what is needed.
        """
        found = Derived(stamp=self.stamp(unguarded))
        for sources, commits in self._by_sources().items():
            others = [source for source in sources if source.gone is None and not source.is_own]
            self._add(found, commits, others, fresh)
        found.held[Why.MOUNTED].update(self.needs(filter(self._store.commits.exists, unguarded)))
        self._add_rules(found)
        found.held[Why.PROMISED].update(self.needs(filter(self._store.commits.exists, self._store.promises.commits())))
        found.held[Why.HISTORY].update(self._store.histories.roots(self._logs)[0])
        found.held[Why.LOCAL].update(self._store.repositories.objects())
        found.held[Why.BUSY].update(self._store.transactions.needed())
        return found

    def stamp(self, unguarded: Set[str]) -> object:
        """What tells whether anything changed that a derivation depends on, but for running transactions."""
        store, layout = self._store, self._store.layout
        commits = [(commit, signature_of(layout.beside(commit, SOURCES))) for commit in store.commits.list()]
        ruled = [
            (name, signature_of(layout.ref(name) / RESIDENCE), sorted(commits_named(store, name)))
            for name in self._with_rules()
        ]
        return commits, ruled, sorted(unguarded), store.histories.stamp(), store.promises.stamp()

    def needs(self, commits: Iterable[str]) -> frozenset[bytes]:
        """The objects of some commits. ``DamagedError`` where one of their trees cannot be read."""
        key = frozenset(commits)
        found = self._objects.pop(key, None)
        if found is None:
            needed = Needed(self._store.layout, self._store.trees)
            try:
                needed.add(sorted(key))
            except (DamagedError, NotFoundError) as exc:
                raise DamagedError(
                    f"{exc.message}, so it is not known what commits need",
                    hint="nothing is evicted; 'stratum fsck' tells more, 'stratum gc' removes what nothing names",
                ) from None
            found = frozenset(needed.objects)
        self._objects[key] = found
        while len(self._objects) > 1 and sum(map(len, self._objects.values())) > _REMEMBERED:
            del self._objects[next(iter(self._objects))]
        return found

    def needing(self, commits: Sequence[str], objects: Set[bytes]) -> list[str]:
        """Those of the commits that need any of the objects. ``DamagedError``."""
        trees = self._store.trees
        coverage, users = Coverage(trees.record), 0

        def take(part: Part) -> int:
            data, found = part.data if part.frame is None else trees.checked_frame(part.frame), 0
            for lines, mask in lines_in(part, data):
                if mask & ~users and not objects.isdisjoint(digests_in(lines)):
                    found |= mask
            return found

        for number, commit in enumerate(commits):
            users |= take(coverage.add(commit, 1 << number))
        for part in coverage.parts():
            users |= take(part)
        return [commit for number, commit in enumerate(commits) if users >> number & 1]

    def _by_sources(self) -> dict[tuple[CommitSource, ...], list[str]]:
        """The commits of the store, by what sources they have."""
        found: dict[tuple[CommitSource, ...], list[str]] = {}
        for commit in self._store.commits.list():
            sources: list[CommitSource] = []
            with suppress(DamagedError):
                sources = self._store.sources.of(commit)
            found.setdefault(tuple(sources), []).append(commit)
        return found

    def _add(
        self,
        found: Derived,
        commits: list[str],
        sources: list[CommitSource],
        fresh: Callable[[CommitSource], bool],
    ) -> None:
        """Add what the sources of some commits list, and what of the commits they do not."""
        needed = self.needs(commits)
        for source in sources:
            for digest, size in self._catalog(source.manifest).items():
                if found.listed.setdefault(digest, size) != size:  # one of them lies
                    found.held[Why.LOCAL].add(digest)
        lasting = [source for source in sources if not is_archive(source)]
        believed = [source for source in lasting if fresh(source)]
        local = self._without(needed, sources)
        found.held[Why.LOCAL] |= local
        if len(lasting) < len(sources):
            filed = self._without(needed, lasting) - local
            found.held[Why.ARCHIVE] |= filed
            local |= filed
        if len(believed) < len(lasting):
            found.held[Why.GONE] |= self._without(needed, believed) - local
            found.unverified.update({source.reference: source for source in lasting if source not in believed})

    def _without(self, needed: Set[bytes], sources: Iterable[CommitSource]) -> set[bytes]:
        """The objects that are needed and that none of the sources lists."""
        rest = set(needed)
        for manifest in {source.manifest for source in sources}:
            rest.difference_update(self._catalog(manifest))
        return rest

    def _read_catalog(self, manifest: str) -> Mapping[bytes, int]:
        """What the catalog of ``manifest`` lists; nothing where it is damaged or missing."""
        try:
            catalog = self._store.sources.catalog(manifest)
            catalog.check()
            return dict(catalog.digests())
        except (DamagedError, NotFoundError):
            return {}

    # Rules

    def _with_rules(self) -> Mapping[str, Rules]:
        return self._store.keeping.with_rules(self._store.names())

    def _add_rules(self, found: Derived) -> None:
        kept, first = set[bytes](), set[bytes]()
        for name, rules in self._with_rules().items():
            for commit in commits_named(self._store, name):
                if not self._store.commits.exists(commit):
                    continue
                grades = self.ruled(commit, rules)
                kept |= grades[Rule.REAL] | grades[Rule.AUTO]
                first |= grades[Rule.UNREAL]
                found.held[Why.RULE] |= grades[Rule.REAL]
        found.first = first - kept

    def ruled(self, commit: str, rules: Rules) -> dict[Rule, set[bytes]]:
        """The objects of the commit by the greatest rule of their paths. ``DamagedError``."""
        from stratum.tree.contents import graded_objects

        found: dict[Rule, set[bytes]] = {rule: set() for rule in Rule}
        if not rules.rules.keys() - {ROOT}:
            found[rules.of(ROOT)].update(self.needs([commit]))
            return found
        for digest, (_, grade) in graded_objects(self._store.commits.dump(commit), rules.of_lines()).items():
            found[Rule(grade)].add(digest)
        return found


def is_archive(source: CommitSource) -> bool:
    """Whether the source is a file, and not a registry or a layout; what cannot be read cannot be asked either."""
    try:
        return target_of(source).archive is not None
    except UsageError:
        return False
