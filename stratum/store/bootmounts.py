"""Mounts that outlive a reboot: ``mounts/<id>.toml``, one file a mountpoint; what brings them back is ``mount --all``.

The ID is made from the mountpoint, so that a place has one record at most::

    [mount]  ref (NAME+WORKTREE, NAME:TAG, NAME:HASH or HASH), mountpoint (absolute), read_only, since

A record says what is wanted at every start of the machine, not what is mounted now: that is in the mount state, which a
reboot voids. It is written when the mount is there, and stays when that is unmounted. The commits that records name by
hash are kept by ``gc``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import ConflictError, DamagedError, ExistsError, UsageError
from stratum.frozen import frozen
from stratum.hashes import sha256
from stratum.refs import Ref, is_hash, parse_lasting
from stratum.store.clock import rfc3339, utc_now
from stratum.store.layout import Layout, storage_error
from stratum.store.tables import Tables, read_tables, write_tables

if TYPE_CHECKING:
    from stratum.store.transaction import Transactions

_SUFFIX = ".toml"


@frozen
class BootMount:
    """One record: ``ref`` is never a bare NAME, ``mountpoint`` absolute and normalised, ``since`` RFC 3339 UTC."""

    ref: str
    mountpoint: str
    read_only: bool
    since: str

    def parsed(self) -> Ref:
        """The ref; a whole commit hash is ``Ref(name=HASH)``."""
        return parse_lasting(self.ref)

    @property
    def commit(self) -> str | None:
        """The commit that is named by its hash, or None for a worktree or tag."""
        ref = self.parsed()
        return next((text for text in (ref.tag, ref.name) if text is not None and is_hash(text)), None)


class BootMounts:
    """The records of one store."""

    def __init__(self, layout: Layout, transactions: Transactions) -> None:
        self._layout = layout
        self._transactions = transactions

    def files(self) -> list[str]:
        """The names of the record files, sorted; what has another name is none."""
        return [name for name in self._layout.names_in(self._layout.boot_mounts) if is_record_name(name)]

    def read(self, file: str) -> BootMount:
        """The record in the file of this name. ``FileNotFoundError``, or ``DamagedError`` for one that Stratum did not
        write there."""
        path = self._layout.boot_mounts / file
        try:
            tables = read_tables(self._layout.read_beneath(path), str(path))
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        fields = Tables(tables, str(path))
        found = BootMount(
            ref=fields.text("mount", "ref"),
            mountpoint=fields.text("mount", "mountpoint"),
            read_only=fields.flag("mount", "read_only"),
            since=fields.text("mount", "since"),
        )
        _check(found, file, path)
        return found

    def scan(self) -> tuple[list[BootMount], dict[str, DamagedError]]:
        """(the records by mountpoint, the damaged files: name -> what is wrong with it)."""
        found: list[BootMount] = []
        damaged: dict[str, DamagedError] = {}
        for file in self.files():
            record = self._read_or_why_not(file)
            if isinstance(record, DamagedError):
                damaged[file] = record
            elif record is not None:
                found.append(record)
        return sorted(found, key=lambda mount: mount.mountpoint.split("/")), damaged

    def _read_or_why_not(self, file: str) -> BootMount | DamagedError | None:
        try:
            return self.read(file)
        except FileNotFoundError:  # forgotten at this moment
            return None
        except DamagedError as exc:
            return exc

    def list(self) -> list[BootMount]:
        """The records by mountpoint, parents before what is mounted below them. ``DamagedError`` where one is none."""
        found, damaged = self.scan()
        for error in damaged.values():
            raise error
        return found

    def set(self, ref: str, mountpoint: Path, *, read_only: bool, replacing: str | None = None) -> BootMount:
        """Have ``ref`` mounted at ``mountpoint`` at every start; durable when it returns.

        The place's record is replaced, be it of ``ref`` or of ``replacing``. ``ConflictError`` where the place is
        another ref's, or the worktree has another place; ``UsageError`` for a path that is no UTF-8.
        """
        place = str(mountpoint)
        record = BootMount(ref, place, read_only, rfc3339(utc_now()))
        self.check(ref, mountpoint, replacing=replacing)
        with self._transactions.begin(f"keeping the mount of {ref}") as tx:
            if not os.path.lexists(self._layout.boot_mounts):
                directory = tx.new_path("mounts")
                tx.make_directory(directory, 0o755)
                with suppress(ExistsError):  # somebody else's
                    tx.place(directory, self._layout.boot_mounts)
            tx.place_file(_content(record), self._layout.boot_mounts / file_name(place))
        return record

    def check(self, ref: str, mountpoint: Path, *, replacing: str | None = None) -> None:
        """Raise what ``set`` would, with nothing changed."""
        place = str(mountpoint)
        _content(BootMount(ref, place, False, ""))
        for other in self.scan()[0]:
            if other.mountpoint == place and other.ref not in (ref, replacing):
                raise ConflictError(
                    f"{place} is where {other.ref} is mounted at every start",
                    hint=f"drop that first: stratum unmount --forget {place}",
                )
            if other.ref == ref and other.mountpoint != place and "+" in ref:
                raise ConflictError(
                    f"{ref} is mounted at {other.mountpoint} at every start, and a worktree has one place",
                    hint=f"drop that first: stratum unmount --forget {other.mountpoint}",
                )

    def forget(self, mountpoint: str) -> bool:
        """Drop the record of a mountpoint, damaged or not; whether there was one."""
        path = self._layout.boot_mounts / file_name(mountpoint)
        if not os.path.lexists(path):
            return False
        self._transactions.discard(path)
        return True


def _content(record: BootMount) -> bytes:
    table = {
        "ref": record.ref,
        "mountpoint": record.mountpoint,
        "read_only": record.read_only,
        "since": record.since,
    }
    return write_tables({"mount": table}, f"the mountpoint {record.mountpoint!a}")


def file_name(mountpoint: str) -> str:
    """The name of a mountpoint's record file."""
    return sha256(os.fsencode(mountpoint)).hexdigest()[:32] + _SUFFIX


def is_record_name(name: str) -> bool:
    """Whether a record file can have this name."""
    stem = name.removesuffix(_SUFFIX)
    return stem != name and len(stem) == 32 and not set(stem) - set("0123456789abcdef")


def _check(found: BootMount, file: str, path: Path) -> None:
    """``DamagedError`` where what can be read is not what Stratum writes to a file of this name."""
    place = found.mountpoint
    problem = ""
    if not place.startswith("/") or os.path.normpath(place) != place or "\0" in place:
        problem = "its mountpoint is not an absolute path"
    elif file_name(place) != file:
        problem = "it is not the record of its mountpoint"
    else:
        try:
            ref = found.parsed()
        except UsageError as exc:
            problem = exc.message
        else:
            if ref.bare and not is_hash(ref.name):
                problem = f"{found.ref} names neither a worktree, a tag nor a commit"
    if problem:
        raise DamagedError(f"{path}: {problem}", hint="'stratum fsck --repair' takes it out of the way")
