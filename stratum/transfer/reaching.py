"""What the tags of an object store lead to: by manifests, indexes, their subjects, and lists of referrers.

Everything that has a name in ``tags/`` or ``referrers/`` is a root, as long as it is there. From a tag also the
manifest is reached that a manifest refers to (its subject); not from a list of referrers, which would keep what it is
about. Such a list is dead when no tag leads to what it is about.

What is reached only grows. A manifest that cannot be read, or is not what its digest says, is an error: nothing may be
deleted by one who does not know all that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.bucketstore import ALWAYS, BucketStore, Entry
from stratum.oci.descriptor import MANIFEST_MAX, MalformedError, digest_of, is_digest, json_object
from stratum.oci.guard import in_threads
from stratum.oci.links import Links, links_of
from stratum.oci.sweeprecord import BLOBS, PUSH_MAX, PUSHES, REFERRERS, TAGS, blob_key, is_hex, is_push_key, read_push
from stratum.transfer.digestset import DigestSet
from stratum.transfer.knownmanifests import TAGS_KEY, KnownManifests, read_tags, write_tags

_TAG_MAX = 64 << 10
_CACHED_TAGS_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Pushes:
    """The pushes under way: how many records there are that count, the keys that these are about to write, since when
    the oldest has been going on (None: there is none), and records that count no more."""

    live: int
    keys: frozenset[str]
    begun: float | None
    forgotten: tuple[str, ...]


class Reach:
    """What is needed in ``store``. ``named`` are blobs and manifests; ``beat`` is called again and again."""

    def __init__(
        self, store: BucketStore, known: KnownManifests, *, jobs: int, beat: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._known = known
        self._jobs = jobs
        self._beat = beat
        self.named = DigestSet()
        self.read = 0
        self.tags: dict[str, Entry] = {}
        self._tagged: dict[str, tuple[str, float, str]] = {}
        self._strong: set[str] = set()
        self._weak: set[str] = set()
        self._absent: set[str] = set()

    @property
    def manifests(self) -> int:
        """How many manifests are reached that are there."""
        return len((self._strong | self._weak) - self._absent)

    @property
    def absent(self) -> int:
        """How many are named and need not be there, and are not."""
        return len(self._absent)

    # Looking

    def load_tags(self) -> None:
        """Take over what tags named when a collection saw them last, for those that have not been written since."""
        try:
            self._tagged = read_tags(self._store.get(TAGS_KEY, _CACHED_TAGS_MAX)[0])
        except (NotFoundError, DamagedError):
            self._tagged = {}

    def save_tags(self) -> None:
        """Keep that for the next collection."""
        there = {key: value for key, value in self._tagged.items() if key in self.tags}
        self._store.put(TAGS_KEY, write_tags(there), when=ALWAYS)

    def look(self, now: float, forgotten: float) -> Pushes:
        """Follow what pushes need, then what tags name: in this order (``oci.guard``). ``now`` is the server's time."""
        pushes = self._look_at_pushes(now, forgotten)
        self._retry_absent()
        self._look_at_tags()
        return pushes

    def _look_at_pushes(self, now: float, forgotten: float) -> Pushes:
        live, keys, times, old = 0, set(), [], []
        for entry in self._store.list(PUSHES):
            if not is_push_key(entry.key):
                continue
            if now - entry.modified > forgotten:
                old.append(entry.key)
                continue
            try:
                record = read_push(self._store.get(entry.key, PUSH_MAX)[0])
            except NotFoundError:
                continue  # that push is over
            except MalformedError as exc:
                raise DamagedError(
                    f"the record of a push, {entry.key}, cannot be read: {exc}",
                    hint="where no push is under way, of whatever version of Stratum, delete that object",
                ) from None
            live += 1
            times.append(record.begun if record.begun is not None else entry.modified)
            if record.key is not None:
                keys.add(record.key)
            if record.manifest is not None:
                self.named.add(record.manifest)
            self._name(record.blobs)
            self._follow((digest, "a push") for digest in record.manifests)
        return Pushes(live, frozenset(keys), min(times, default=None), tuple(old))

    def _look_at_tags(self) -> None:
        tags = {entry.key: entry for entry in self._store.list(TAGS)}
        changed = [key for key, entry in tags.items() if entry.size and self._is_new(entry)]
        gone = set()
        for key, found in in_threads(self._tag, changed, self._jobs):
            self._beat()
            if found is None:
                self._tagged.pop(key, None)
                gone.add(key)
            else:
                self._tagged[key] = (found[1], tags[key].modified, found[0])
        self._check_gone(TAGS, gone)
        roots = [(self._tagged[key][2], key) for key, entry in tags.items() if entry.size and key in self._tagged]
        self._follow(roots, strong=True, must=True)
        lists = {entry.key: entry for entry in self._store.list(REFERRERS)}
        new = [key for key, entry in lists.items() if self.tags.get(key) != entry]
        absent = set()
        for key, links in in_threads(self._list_of_referrers, new, self._jobs):
            self._beat()
            if links is None:
                absent.add(key)
                continue
            self._name(links.blobs)
            self._follow((digest, key) for digest in links.manifests)
        self._check_gone(REFERRERS, absent)
        self.tags = tags | lists

    def _check_gone(self, folder: str, gone: Set[str]) -> None:
        """``DamagedError`` where what was listed and could not be read, and so counts as removed meanwhile, is listed
        still: what hides a tag from one who reads it would have all that it leads to deleted."""
        listed = (entry.key for entry in self._store.list(folder) if entry.size) if gone else ()
        for key in listed:
            if key in gone:
                raise _unclear(f"{_named(key)} is listed, and cannot be read")

    def _is_new(self, entry: Entry) -> bool:
        known = self._tagged.get(entry.key)
        return known is None or (known[0], known[1]) != (entry.version, entry.modified)

    def _tag(self, key: str) -> tuple[str, str] | None:
        """The manifest that a tag names, and its version; None where it was removed meanwhile."""
        try:
            data, version = self._store.get(key, _TAG_MAX)
        except NotFoundError:
            return None
        if not data:
            return None
        try:
            digest = json_object(data).get("digest")
            if not isinstance(digest, str) or not is_digest(digest):
                raise MalformedError("it has no sha256 digest")
        except MalformedError as exc:
            raise _unclear(f"the tag {key.removeprefix(TAGS)} is damaged: {exc}") from None
        return digest.partition(":")[2], version

    def _list_of_referrers(self, key: str) -> Links | None:
        try:
            return links_of(self._store.get(key, MANIFEST_MAX)[0])
        except NotFoundError:
            return None
        except MalformedError as exc:
            raise _unclear(f"the list of referrers {key} is damaged: {exc}") from None

    # Following

    def _follow(self, roots: Iterable[tuple[str, str]], *, strong: bool = False, must: bool = False) -> None:
        """Reach manifests, each from what names it, and all that they name. ``must``: they have to be there."""
        reached = self._strong if strong else self._weak
        left = {digest: why for digest, why in roots if self._is_left(digest, reached)}
        while left:
            now, left = left, {}
            reached.update(now)
            self._name(now)
            for digest, links in self._links_of(now, must=must):
                self._name(links.blobs)
                more = [*links.manifests, *([links.subject] if strong and links.subject is not None else [])]
                left |= {child: f"the manifest sha256:{digest}" for child in more if self._is_left(child, reached)}
            must = False

    def _is_left(self, digest: str, reached: set[str]) -> bool:
        """Whether a manifest is to be followed; one that was not there may have come."""
        return digest not in reached or digest in self._absent

    def _name(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self.named.add(digest)

    def _links_of(self, manifests: dict[str, str], *, must: bool) -> Iterator[tuple[str, Links]]:
        done = set()
        for digest, links in self._known.of(manifests):
            self._beat()
            done.add(digest)
            yield digest, links
        for digest, found in in_threads(self._read, [each for each in manifests if each not in done], self._jobs):
            self._beat()
            if found is not None:
                self.read += 1
                self._absent.discard(digest)
                self._known.add(digest, *found)
                yield digest, found[0]
            elif must:
                raise _unclear(f"{_named(manifests[digest])} names sha256:{digest}, which is not there")
            else:
                self._absent.add(digest)

    def _read(self, digest: str) -> tuple[Links, int, str] | None:
        try:
            data, version = self._store.get(blob_key(digest), MANIFEST_MAX)
            if digest_of(data) != f"sha256:{digest}":
                raise MalformedError("its bytes do not match its digest")
            return links_of(data), len(data), version
        except NotFoundError:
            return None
        except MalformedError as exc:
            raise _unclear(f"the manifest sha256:{digest} is damaged: {exc}") from None

    def _retry_absent(self) -> None:
        """Look again for manifests that were named but not there."""
        absent = sorted(self._absent)
        self._follow(((digest, "an index") for digest in absent if digest in self._strong), strong=True)
        self._follow((digest, "an index") for digest in absent if digest in self._weak)

    def check(self, entry: Entry) -> None:
        """Where a manifest that is needed is not the object any more that its record was made of, read it again."""
        digest = entry.key.removeprefix(BLOBS)
        if digest not in self._known or self._known.fits(entry, digest):
            return
        self._known.forget(digest)
        for reached in (self._strong, self._weak):
            if digest in reached:
                reached.discard(digest)
                self._follow([(digest, "a tag")], strong=reached is self._strong, must=True)

    def is_manifest(self, digest: str) -> bool:
        """Whether it is one that is reached."""
        return digest in self._strong or digest in self._weak

    def missing(self, seen: Iterable[str]) -> None:
        """``seen`` are the manifests that a listing showed. ``DamagedError`` where one that a tag names is none."""
        there = set(seen)
        for key, (_, _, digest) in self._tagged.items():
            if key in self.tags and self.tags[key].size and digest not in there:
                raise _unclear(f"{_named(key)} names sha256:{digest}, which is not there")

    def is_dead(self, entry: Entry) -> bool:
        """Whether a list of referrers is about what no tag leads to, or a tag is one that was removed."""
        if entry.key.startswith(REFERRERS):
            subject = entry.key.removeprefix(REFERRERS)
            return is_hex(subject) and subject not in self._strong
        return not entry.size


def _named(why: str) -> str:
    return f"the tag {why.removeprefix(TAGS)}" if why.startswith(TAGS) else why


def _unclear(problem: str) -> DamagedError:
    return DamagedError(
        f"nothing was deleted: {problem}",
        hint="push what it is about again, or remove the tag that leads to it: 'stratum remove PLACE:TAG'",
    )
