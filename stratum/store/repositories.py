"""What others pushed, repository by repository: what is in one cannot be had through another.

::

    repositories/<name>/            '/' in the name is written as '+'
    |-- blobs/<SHA-256>             blobs that manifests name: hard links to ``store.blobs``
    |-- fresh/<SHA-256>             such links of blobs that arrived and no manifest names yet
    |-- manifests/<SHA-256>         such links of manifests
    |-- packs/<SHA-256>             packs that manifests name and that are computed: links to ``store.offers``
    |-- commits/<commit>            which manifest of the commit was pushed last
    |-- tags/<tag>                  which manifest was pushed under the tag last, and of which commit it is, if of one
    |-- referrers/<SHA-256>/<SHA-256>   of a manifest that is referred to: who does, empty
    `-- uploads/<id>                blobs on their way (``store.uploads``)

What was pushed by its SHA-512 has that in place of its SHA-256 in all of these; in ``store.blobs`` it has the latter.

In a stratum, the stratum's own tags are what counts: a tag here that is of a commit says only which bytes that commit
had when it was pushed. What a manifest names is linked durably before it is; so a crash leaves things that no manifest
names. A garbage collection (``store.blobgc``) takes those, and manifests that no tag leads to.

The time of the file of a manifest or blob is when it was put last; 0: when the last of its tags was deleted.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256, sha512
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import frozen
from stratum.store.blobs import link
from stratum.store.layout import Layout, storage_error, storing
from stratum.store.offers import OfferedPack, read_pack
from stratum.sys.atomic import TEMPORARY_PREFIX, fsync_dir, write_atomic

if TYPE_CHECKING:
    from stratum.store.blobs import Blobs

BLOBS, FRESH, MANIFESTS, PACKS = "blobs", "fresh", "manifests", "packs"
COMMITS, TAGS, REFERRERS, UPLOADS = "commits", "tags", "referrers", "uploads"
PARTS = (BLOBS, FRESH, MANIFESTS, PACKS, COMMITS, TAGS, REFERRERS, UPLOADS)

MANIFEST_MAX = 4 << 20
"""Bytes of the largest manifest that is taken."""
FRESH_KEPT = 24 * 3600.0
"""Seconds that what no tag leads to is kept after it was put: somebody may be about to."""

_TAG_FILE = re.compile(rb"([0-9a-f]{64}|[0-9a-f]{128})(?: ([0-9a-f]{64}))?\n")
_TAG_MAX = 256
_SHA256 = 64
_PACK_FILE_MAX = 64 << 20


@frozen
class Pushed:
    """What a tag was pushed as: a manifest (the hex digits of its digest), and the commit that it is of, if of one."""

    manifest: str
    commit: str | None = None


def directory_name(name: str) -> str:
    """What the directory of a repository is called."""
    return name.replace("/", "+")


def name_of(directory: str) -> str:
    """The repository with that directory."""
    return directory.replace("+", "/")


class Repositories:
    """The repositories of one store. Whoever writes here holds the store's lock shared."""

    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs

    # Looking

    def directory(self, name: str, *parts: str) -> Path:
        """The directory of a repository, or what is in it."""
        return self._layout.repositories.joinpath(directory_name(name), *parts)

    def names(self) -> list[str]:
        """The repositories that anything was pushed to, sorted."""
        found = self._layout.names_in(self._layout.repositories)
        return sorted(name_of(name) for name in found if not name.startswith(TEMPORARY_PREFIX))

    def exists(self, name: str) -> bool:
        """Whether anything was pushed to the repository."""
        try:
            return stat.S_ISDIR(os.lstat(self.directory(name)).st_mode)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"look for repository {name}") from None

    def has(self, name: str, part: str, file: str) -> bool:
        """Whether the repository has this file in one of its ``PARTS``."""
        return os.path.lexists(self.directory(name, part, file))

    def files(self, name: str, part: str) -> list[str]:
        """The names of what is in a part, sorted, but for what is being written."""
        found = self._layout.names_in(self.directory(name, part))
        return [file for file in found if not file.startswith(TEMPORARY_PREFIX)]

    def blob(self, name: str, sha: str) -> Path | None:
        """The file of a blob that the repository has; None where it has none, or only as a pack that is computed."""
        for part in (BLOBS, FRESH, MANIFESTS):
            if self.has(name, part, sha):
                return self.directory(name, part, sha)
        return None

    def pack(self, name: str, sha: str) -> OfferedPack | None:
        """A computed pack that a manifest here names. ``DamagedError``."""
        data = self._read(name, PACKS, sha, _PACK_FILE_MAX)
        if data is None:
            return None
        found = read_pack(data)
        if found is None or found.pack.sha != sha:
            raise DamagedError(f"{self.directory(name, PACKS, sha)} is damaged", hint="run 'stratum fsck'")
        return found

    def manifest(self, name: str, sha: str) -> bytes | None:
        """A manifest that was pushed; None where there is none. ``DamagedError``."""
        data = self._read(name, MANIFESTS, sha, MANIFEST_MAX)
        if data is not None and (sha512 if len(sha) > _SHA256 else sha256)(data).hexdigest() != sha:
            raise DamagedError(f"{self.directory(name, MANIFESTS, sha)} is damaged", hint="push it again")
        return data

    def of_commit(self, name: str, commit: str) -> str | None:
        """The manifest that was last pushed of a commit, if it is here."""
        found = self._pushed(name, COMMITS, commit)
        return found.manifest if found is not None and self.has(name, MANIFESTS, found.manifest) else None

    def tag(self, name: str, tag: str) -> Pushed | None:
        """What was pushed under a tag last, if it is here."""
        found = self._pushed(name, TAGS, tag)
        return found if found is not None and self.has(name, MANIFESTS, found.manifest) else None

    def tags(self, name: str) -> dict[str, Pushed]:
        """All of these, sorted."""
        found = ((tag, self.tag(name, tag)) for tag in self.files(name, TAGS))
        return {tag: pushed for tag, pushed in found if pushed is not None}

    def can_be_read(self, name: str, part: str, file: str) -> bool:
        """Whether a file of ``TAGS`` or ``COMMITS`` is one, or gone by now."""
        try:
            return self._pushed(name, part, file) is not None or not self.has(name, part, file)
        except DamagedError:
            return False

    def referrers(self, name: str, sha: str) -> list[str]:
        """The manifests here that refer to the one with this digest, sorted."""
        found = self._layout.names_in(self.directory(name, REFERRERS, sha))
        return [other for other in found if self.has(name, MANIFESTS, other)]

    def objects(self) -> set[bytes]:
        """The objects that the computed packs are made of which manifests name."""
        found = set[bytes]()
        for name in self.names():
            for sha in self.files(name, PACKS):
                with suppress(DamagedError):
                    pack = self.pack(name, sha)
                    found.update(digest for digest, _ in (pack.members if pack is not None else ()))
        return found

    def _pushed(self, name: str, part: str, file: str) -> Pushed | None:
        data = self._read(name, part, file, _TAG_MAX)
        match = _TAG_FILE.fullmatch(data) if data is not None else None
        return Pushed(match[1].decode(), match[2].decode() if match[2] else None) if match else None

    def _read(self, name: str, part: str, file: str, limit: int) -> bytes | None:
        path = self.directory(name, part, file)
        return self._layout.content_of(path, limit)

    # Changing

    def ensure(self, name: str) -> None:
        """Make the repository where it is missing, durably."""
        directory = self.directory(name)
        if all(os.path.isdir(directory / part) for part in PARTS):
            return
        with storing(f"make repository {name}"):
            for path in (self._layout.repositories, directory, *(directory / part for part in PARTS)):
                with suppress(FileExistsError):
                    path.mkdir(mode=0o755)
            for path in (directory, self._layout.repositories, self._layout.root):
                fsync_dir(path)

    def link_fresh(self, name: str, sha: str, called: str | None = None) -> None:
        """Have a blob of the store in the repository, where it is ``called`` by another digest or the same.
        ``NotFoundError``."""
        self.ensure(name)
        with storing(f"link blob {sha}"), self._open(name, FRESH) as fresh:
            self._blobs.link(sha, fresh, called or sha)
            os.utime(called or sha, dir_fd=fresh, follow_symlinks=False)

    def mount(self, name: str, sha: str, source: str) -> bool:
        """Have a blob of another repository in this one; whether that has it."""
        path = self.blob(source, sha)
        if path is None:
            return False
        self.ensure(name)
        with storing(f"link blob {sha}"), self._open(name, FRESH) as fresh:
            link(path, fresh, sha)
            os.utime(sha, dir_fd=fresh, follow_symlinks=False)
        return True

    def keep(self, name: str, blobs: Iterable[str], packs: Mapping[str, Path]) -> None:
        """Have the repository keep blobs that it has, or the store, for a manifest is about to name them, and computed
        packs, whose records are at these paths. ``NotFoundError`` where one is gone."""
        with self._open(name, BLOBS) as kept, self._open(name, PACKS) as computed:
            for sha in blobs:
                path = self.blob(name, sha)
                if path is None:
                    self._blobs.link(sha, kept, sha)
                    continue
                link(path, kept, sha)
            for sha, path in packs.items():
                link(path, computed, sha)

    def add_manifest(
        self, name: str, sha: str, called: Iterable[str], *, subject: str | None, commit: str | None
    ) -> None:
        """Name a manifest by what it is ``called``, whose bytes are the blob ``sha`` of the store by now, and all of
        whose blobs are kept."""
        if subject is not None:
            directory = self.directory(name, REFERRERS, subject)
            with storing(f"note who refers to {subject}"):
                with suppress(FileExistsError):
                    directory.mkdir(mode=0o755)
                    fsync_dir(directory.parent)
                for each in called:
                    write_atomic(directory / each, b"")
        with storing(f"keep manifest {sha}"), self._open(name, MANIFESTS) as manifests:
            for each in called:
                self._blobs.link(sha, manifests, each)
                os.utime(each, dir_fd=manifests, follow_symlinks=False)
        if commit is not None:
            self._write(name, COMMITS, commit, Pushed(sha))

    def set_tag(self, name: str, tag: str, pushed: Pushed) -> None:
        """Have a tag lead to a manifest that is here."""
        self._write(name, TAGS, tag, pushed)

    def remove_tag(self, name: str, tag: str) -> bool:
        """Remove a tag; whether it was there. What only it led to goes with the next garbage collection."""
        before = self.tag(name, tag)
        if not self.drop(name, TAGS, (tag,)):
            return False
        if before is not None and all(other.manifest != before.manifest for other in self.tags(name).values()):
            with suppress(FileNotFoundError), storing(f"change repository {name}"):
                os.utime(self.directory(name, MANIFESTS, before.manifest), (0, 0), follow_symlinks=False)
        return True

    def drop(self, name: str, part: str, files: Iterable[str]) -> list[str]:
        """Remove files of a part, durably; those that were there."""
        gone = []
        try:
            with storing(f"change repository {name}"), self._open(name, part) as directory:
                for file in files:
                    with suppress(FileNotFoundError):
                        os.unlink(file, dir_fd=directory)
                        gone.append(file)
        except NotFoundError:
            return []
        return gone

    def remove_manifest(self, name: str, sha: str, subject: str | None) -> None:
        """Remove a manifest; its tags first."""
        self.drop(name, TAGS, [tag for tag, pushed in self.tags(name).items() if pushed.manifest == sha])
        self.drop(name, MANIFESTS, [sha])
        if subject is not None:
            self.drop(name, f"{REFERRERS}/{subject}", [sha])
            with suppress(OSError):
                os.rmdir(self.directory(name, REFERRERS, subject))

    def put_time(self, name: str, part: str, file: str) -> float | None:
        """When a blob or manifest was put last, in seconds since 1970; None where it is not there."""
        try:
            return os.lstat(self.directory(name, part, file)).st_mtime
        except FileNotFoundError:
            return None

    def is_fresh(self, name: str, part: str, file: str) -> bool:
        """Whether it was put lately."""
        put = self.put_time(name, part, file)
        return put is not None and time.time() - put < FRESH_KEPT

    def _write(self, name: str, part: str, file: str, pushed: Pushed) -> None:
        text = f"{pushed.manifest}{f' {pushed.commit}' if pushed.commit is not None else ''}\n"
        with storing(f"change repository {name}"), self._open(name, part) as directory:
            write_atomic(Path(file), text.encode(), directory=directory)

    @contextmanager
    def _open(self, name: str, part: str) -> Iterator[int]:
        """A descriptor of a part's directory, which is synced afterwards. ``NotFoundError``."""
        path = self.directory(name, part)
        try:
            fd = self._layout.open_beneath(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFoundError(f"repository {name} was removed") from None
        except OSError as exc:
            raise storage_error(exc, f"change repository {name}") from None
        try:
            yield fd
            with storing(f"change repository {name}"):
                os.fsync(fd)
        finally:
            os.close(fd)
