"""Commits that are here in part, and fetchers that bring the rest from an OCI layout, whose files tests may damage."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stratum.composefs.verity import verity_digest
from stratum.hydrate.fetch import Fetcher
from stratum.hydrate.landing import Landing
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.catalog import Catalog, NewPack, write_catalog
from stratum.sys.actors import Actor
from stratum.transfer.packs import LARGE_OBJECT
from stratum.transfer.push import push
from tests.support import stores
from tests.support.pulling import pull

READER = Actor(1, 2, "cat", None)
WAIT = 60.0


def small_files(count: int = 120, seed: int = 1, size: int = 60_000) -> dict[bytes, bytes]:
    """Files of several frames together, half of whose bytes do not compress."""
    rng = random.Random(seed)
    files = {}
    for number in range(count):
        length = rng.randrange(2_000, size)
        files[b"f%04d" % number] = b"%d:" % number + rng.randbytes(length // 2) + b"same " * (length // 10)
    return files


@dataclass
class Partial:
    """``store`` has ``commit`` without its objects; the layout ``place`` has them. ``contents`` is digest -> bytes."""

    store: Store
    commit: str
    place: Path
    contents: dict[bytes, bytes] = field(repr=False)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.source,) = self.store.sources.of(self.commit)

    @property
    def catalog(self) -> Catalog:
        return self.store.sources.catalog(self.source.manifest)

    def blob(self, sha256: bytes) -> Path:
        """The file of the layout that the blob is in."""
        return self.place / "blobs" / "sha256" / sha256.hex()

    @property
    def packs(self) -> list[Path]:
        return [self.blob(pack.pack.sha256) for pack in self.catalog.packs]

    def in_order(self) -> list[bytes]:
        """The objects that are not large, in the order of the packs."""
        return [digest for digest, size in self.catalog.digests() if size < LARGE_OBJECT]

    @contextlib.contextmanager
    def fetcher(self, landing: Landing | None = None, **options: Any) -> Iterator[Fetcher]:
        """One over a landing of its own, unless one is given."""
        with contextlib.ExitStack() as stack:
            if landing is None:
                landing = Landing(self.store, log=self.log.append)
                stack.callback(landing.close)
            fetcher = Fetcher(landing, self.commit, lambda _source: Access(), **options)
            stack.callback(fetcher.close)
            yield fetcher

    def check(self, digest: bytes) -> None:
        """The object is in the landing or the store, and is what it should be."""
        layout = self.store.layout
        for path in (layout.ahead, layout.landing, layout.objects):
            file = path / digest.hex()[:2] / digest.hex()[2:]
            if file.exists():
                assert file.read_bytes() == self.contents[digest]
                assert file.stat().st_mode & 0o7777 == 0o444
                return
        raise AssertionError("it is nowhere")

    def forget_hashes(self) -> None:
        """Have the artifact's catalog name no blobs with the hashes of large objects, as one of another program."""
        packs = []
        for pack in self.catalog.packs:
            members = list(self.catalog.members(*pack.members))
            frames = [self.catalog.frame(number) for number in range(*pack.frames)]
            packs.append(
                NewPack(
                    pack.pack,
                    [(frame.size, frame.archive_size) for frame in frames],
                    [(member.digest, member.offset, member.size) for member in members],
                )
            )
        self.store.sources.catalog_path(self.source.manifest).write_bytes(write_catalog(packs))


def partial(tmp_path: Path, files: Mapping[bytes, bytes]) -> Partial:
    """A commit of ``files``, pulled lazily."""
    origin = Store.create(tmp_path / "origin")
    commit = stores.commit(origin, files)
    target = parse_target(f"oci:{tmp_path / 'place'}:v1")
    push(origin, commit, target, Access())
    store = Store.create(tmp_path / "store")
    assert pull(store, target, Access(), lazy=True).commit == commit
    return Partial(store, commit, tmp_path / "place", {verity_digest(data): data for data in files.values()})


class Answers:
    """What fetchers said, and a way to wait for it."""

    def __init__(self) -> None:
        self._said = threading.Condition()
        self.codes: list[int] = []
        self.data: list[bytes] = []

    def __call__(self, code: int, data: bytes = b"") -> None:
        with self._said:
            self.codes.append(code)
            self.data.append(data)
            self._said.notify_all()

    def wait(self, count: int = 1) -> list[int]:
        with self._said:
            assert self._said.wait_for(lambda: len(self.codes) >= count, WAIT), f"{len(self.codes)} of {count} answers"
            return self.codes


def get(fetcher: Fetcher, *digests: bytes) -> list[int]:
    """Have objects brought, at the same time; what was said of each, in no order."""
    answers = Answers()
    for digest in digests:
        fetcher.want(digest, READER, answers)
    return answers.wait(len(digests))


def read(fetcher: Fetcher, digest: bytes, start: int, size: int) -> tuple[int, bytes]:
    """Read a range of a large object."""
    answers = Answers()
    fetcher.read_range(digest, start, size, READER, answers)
    answers.wait()
    return answers.codes[0], answers.data[0]


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    waited = threading.Event()
    for _ in range(int(WAIT * 100)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not come to that")
