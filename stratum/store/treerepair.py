"""Mending how trees are stored: commits' files, grounds and frames.

A commit's file has two halves, each with its own check: a damaged one is made again from the other, or found in the
copy of a ground. What cannot be is brought from elsewhere: a frame by its name, as it is a layer of artifacts; a commit
as in a pull, which stores it whole, so that it needs nothing of what is damaged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError
from stratum.frozen import replace
from stratum.store.clock import rfc3339
from stratum.store.facts import facts_of
from stratum.store.findings import Finding
from stratum.store.metadata import CommitMeta
from stratum.store.treerecord import RECORD_MAX, decode, join_file, split_file

if TYPE_CHECKING:
    from stratum.store.store import Store

_RECORD = re.compile(rb"(?=[0-9]{1,10} [0-3] (?:[0-9a-f]{64}|-) )")
_KINDS = ("dump", "ground", "frame")


class TreeRepair:
    """Of one repair, whose ``take`` puts the path of a finding into quarantine, and ``keep`` a copy of it. Each method
    that mends a finding says what it did, or None."""

    def __init__(self, store: Store, take: Callable[[Finding], str | None], keep: Callable[[Finding], None]) -> None:
        self._store = store
        self._take = take
        self._keep = keep

    def out_of_the_way(self, finding: Finding) -> str | None:
        """Of a frame or ground: nobody finds it in the place of a whole one."""
        taken = self._take(finding)
        return taken if not finding.needed_by else None

    def dump(self, finding: Finding) -> str | None:
        """Write a commit's file with a record that is whole, where one can be found."""
        commit = finding.commit
        assert commit is not None
        path = self._store.layout.commits / commit
        try:
            data = self._store.layout.read_beneath(path, RECORD_MAX)
        except FileNotFoundError:  # a link that is in quarantine by now
            return None
        for record in self._records(commit, data):
            self._keep(finding)
            self._write(path, data.partition(b"\n\0")[0] + b"\n", record)
            if self._can_be_read(commit):
                return "its tree was found again"
        self._keep(finding)
        return None

    def _records(self, commit: str, data: bytes) -> Iterable[bytes]:
        """The records of a commit that are in its file, wherever it begins, or in that of a ground."""
        for found in _RECORD.finditer(data):
            if _is_record(commit, data[found.start() :]):
                yield data[found.start() :]
                break
        try:
            ground = self._store.layout.read_beneath(self._store.layout.grounds / commit, RECORD_MAX)
            yield split_file(ground, "it")[1]
        except (OSError, DamagedError):
            return

    def metadata(self, finding: Finding) -> str | None:
        """Make the first half again, as far as the dump proves it."""
        commit, store = finding.commit, self._store
        assert commit is not None
        if not self._can_be_read(commit):
            return None
        facts = facts_of(store.commits.dump(commit))
        path = store.layout.commits / commit
        try:
            meta = facts.corrected(store.commits.meta(commit))
        except DamagedError:
            made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            meta = replace(facts.meta(rfc3339(made)), origin={"kind": "repair"})
        self._keep(finding)
        self._write(path, meta.to_toml(), split_file(store.layout.read_beneath(path, RECORD_MAX), "it")[1])
        return "made again from the tree" + (_lost(meta) if meta.origin == {"kind": "repair"} else "")

    def _write(self, path: Path, metadata: bytes, record: bytes) -> None:
        with self._store.begin(f"repairing {path}") as tx:
            tx.place_file(join_file(metadata, record), path)

    def lacking(self, findings: Iterable[Finding]) -> tuple[set[bytes], set[str]]:
        """The frames, by their names, and the commits without which trees cannot be read."""
        frames, commits = set[bytes](), set[str]()
        for finding in findings:
            if finding.kind in _KINDS and finding.repair is None:
                commits.update(commit for commit in finding.needed_by if not self._can_be_read(commit))
                if finding.kind == "frame" and finding.needed_by:
                    frames.add(bytes.fromhex("".join(finding.path.split("/")[1:])))
                elif finding.commit is not None and not self._can_be_read(finding.commit):
                    commits.add(finding.commit)
        return frames, commits

    def note_restored(self, findings: Iterable[Finding]) -> None:
        """Note in each finding whether all that needs it can be read now."""
        for finding in findings:
            if finding.kind in _KINDS and finding.repair is None and all(map(self._can_be_read, finding.needed_by)):
                finding.repair = "restored"

    def _can_be_read(self, commit: str) -> bool:
        try:
            self._store.commits.dump(commit)
        except StratumError:
            return False
        return True


def _is_record(commit: str, data: bytes) -> bool:
    try:
        decode(data, commit, "it")
    except DamagedError:
        return False
    return True


def _lost(meta: CommitMeta) -> str:
    return f"; its parent, message and origin are lost, and its time is taken to be {meta.timestamp}"
