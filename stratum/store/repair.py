"""Mending what a check found, as far as the store itself can; the rest is put into quarantine or left as it is.

Nothing is deleted. What something else in the store proves is made again: images and the provable part of metadata.toml
from the dump, a damaged tag from the reflog. What is damaged and stands in the way of something whole goes into
quarantine: an object (an import or pull brings it back then, or the next read, where a source has it), a frame, a
ground, a worktree without its meta.toml (its upperdir with it), planted links. A commit whose tree cannot be read
stays, with what is said of it, until a pull or import writes it again. A worktree's upperdir is never
looked into. What tells of sources is mended by ``store.sourcerepair``, how trees are stored by ``store.treerepair``.

Every step is complete in itself, so a repair may be interrupted and run again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, NotFoundError
from stratum.store.blobcheck import BlobRepair
from stratum.store.findings import LOST_ATTRIBUTES, UNCHECKED, Finding
from stratum.store.histories import SETTINGS
from stratum.store.layout import storage_error
from stratum.store.logrepair import mend
from stratum.store.moves import LOG
from stratum.store.objects import OBJECT_MODE
from stratum.store.quarantine import Quarantine
from stratum.store.records import read_record, record_text
from stratum.store.reflog import Place, parse_entry, unknown
from stratum.store.sourcerepair import FetchCatalog, SourceRepair
from stratum.store.tables import read_tables, write_tables
from stratum.store.treerecord import RECORD_MAX
from stratum.store.treerepair import TreeRepair
from stratum.sys.atomic import fsync_dir

if TYPE_CHECKING:
    from stratum.store.store import Store

Fetch = Callable[[dict[bytes, int], set[bytes], set[str]], None]
"""Bring these objects (digest -> size), frames (SHA-256) and commits from elsewhere, as far as they are there."""


def repair(
    store: Store, findings: Iterable[Finding], fetch: Fetch | None = None, catalog: FetchCatalog | None = None
) -> Path | None:
    """Mend ``findings`` and note in each what was done; the quarantine's directory where anything went there.

    ``fetch`` is asked once for what is missing by then, ``catalog`` for each catalog that is damaged. The caller holds
    the store lock exclusively.
    """
    return _Repair(store, list(findings), catalog).run(fetch)


class _Repair:
    def __init__(self, store: Store, findings: list[Finding], catalog: FetchCatalog | None) -> None:
        self._store = store
        self._findings = findings
        self._quarantine = Quarantine(store.layout)
        self._taken: set[str] = set()
        self._sources = SourceRepair(store, self._take, catalog)
        self._blobs = BlobRepair(store, self._take)
        self._trees = TreeRepair(store, self._take, self._keep)

    def run(self, fetch: Fetch | None) -> Path | None:
        for kind, step in (
            ("permissions", self._permissions),
            ("symlink", self._misplaced),
            ("stray", self._misplaced),
            ("directory", self._directory),
            ("catalog", self._sources.catalog),
            ("sources", self._sources.sources),
            ("object", self._object),
            ("repository", self._blobs.repository),
            ("blob", self._blobs.blob),
            ("offer", self._blobs.offer),
            ("frame", self._trees.out_of_the_way),
            ("ground", self._trees.out_of_the_way),
            ("dump", self._trees.dump),
        ):
            self._each(kind, step)
        if fetch is not None:
            self._fetch(fetch)
        for kind, step in (
            ("metadata", self._trees.metadata),
            ("image", self._image),
            ("ancestors", self._misplaced),
            ("tag", self._tag),
            ("worktree", self._worktree),
            ("lease", self._worktree),
            ("mount", self._mount),
            ("record", self._record),
            ("pins", self._worktree),
            ("rules", self._rules),
            ("moves", self._moves),
            ("reflog", self._reflog),
            ("history", self._history),
        ):
            self._each(kind, step)
        return self._quarantine.directory if self._taken else None

    def _each(self, kind: str, step: Callable[[Finding], str | None]) -> None:
        for finding in self._findings:
            if finding.kind == kind and finding.repair is None and not finding.harmless:
                try:
                    finding.repair = step(finding)
                except (DamagedError, NotFoundError) as exc:
                    finding.problem += f"; it cannot be repaired: {exc.message}"

    def _path(self, finding: Finding) -> Path:
        return self._store.root / finding.path

    def _take(self, finding: Finding) -> str | None:
        """Into quarantine, unless it is there already, be it with a directory above it."""
        path = self._path(finding)
        above = {str(parent) for parent in Path(finding.path).parents}
        if finding.path not in self._taken and not above & self._taken:
            if not os.path.lexists(path):
                return None
            self._quarantine.take(path)
            self._taken.add(finding.path)
        return "put into quarantine"

    def _keep(self, finding: Finding) -> None:
        """A copy into quarantine of what is to be written over."""
        path = self._path(finding)
        with suppress(OSError, DamagedError):
            self._quarantine.keep(path, self._store.layout.read_beneath(path, RECORD_MAX))
            self._taken.add(finding.path)

    # What only changes names and modes

    def _permissions(self, finding: Finding) -> str | None:
        path = self._path(finding)
        layout = self._store.layout
        owner = layout.root.lstat()
        try:
            fd = layout.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                info = os.fstat(fd)
                if info.st_uid != owner.st_uid:
                    os.fchown(fd, owner.st_uid, owner.st_gid)
                mode = stat.S_IMODE(info.st_mode) & ~0o022
                os.fchmod(fd, OBJECT_MODE if finding.digest is not None else mode)
            finally:
                os.close(fd)
        except OSError as exc:
            raise storage_error(exc, f"change the mode of {path}") from None
        return "owner and mode put right"

    def _misplaced(self, finding: Finding) -> str | None:
        if finding.digest is not None:
            return self._object(finding)
        taken = self._take(finding)
        self._sources.mark_again(finding)
        return taken

    def _directory(self, finding: Finding) -> str | None:
        path = self._path(finding)
        try:
            path.mkdir()
            path.chmod(0o755)
            fsync_dir(path.parent)
        except OSError as exc:
            raise storage_error(exc, f"make {path}") from None
        if path.name != "tags":
            return "made again, empty"
        name = path.parent.name
        tags = {entry.which: entry.new for entry in self._store.reflog.read(name) if entry.kind == "tag"}
        for tag, commit in tags.items():
            if commit is not None and self._store.commits.exists(commit):
                self._store.tags.set(name, tag, commit, why="fsck: where the reflog had it last")
        return "made again, with the tags that the reflog tells of"

    def _object(self, finding: Finding) -> str | None:
        """Out of the way, so that the next import or pull of this content brings a whole one, or the next read, where
        a source has it."""
        fetched = self._sources.let_be_fetched(finding)
        taken = self._take(finding)
        if taken is not None and fetched is not None:
            return f"{taken}; {fetched}"
        return taken if not finding.hurts else None

    def _worktree(self, finding: Finding) -> str | None:
        """A file that only lacks its check gets one. What else is damaged is taken, and not saved: it stays damage."""
        path = self._path(finding)
        if finding.problem == UNCHECKED:
            tables = read_tables(self._store.layout.read_beneath(path), str(path))
            with self._store.begin(f"repairing {path}") as tx:
                tx.place_file(write_tables(tables, str(path)), path)
            return "taken as it is, with a new check"
        if finding.problem == LOST_ATTRIBUTES:
            return None  # only another copy helps, and until then it is left for whoever knows better
        if self._take(finding) is not None:
            finding.problem += "; it is in quarantine now"
        return None

    def _rules(self, finding: Finding) -> str | None:
        """As a worktree's file; without rules, nothing is kept but what only this store has."""
        repaired = self._worktree(finding)
        if repaired is None:
            finding.problem += "; 'stratum realize' and 'stratum cache limit' set them anew"
        return repaired

    def _mount(self, finding: Finding) -> str | None:
        """As a worktree's file; what a record said is lost with it, and the person is told."""
        repaired = self._worktree(finding)
        if repaired is None:
            finding.problem += "; 'mount --persist' makes a record of that mount anew"
        return repaired

    def _record(self, finding: Finding) -> str | None:
        """As a worktree's file, of another format."""
        if finding.problem != UNCHECKED:
            return self._worktree(finding)
        path = self._path(finding)
        table, _ = read_record(self._store.layout, path)
        with self._store.begin(f"repairing {path}") as tx:
            tx.place_file(record_text(table), path)
        return "taken as it is, with a new check"

    # What comes from elsewhere

    def _fetch(self, fetch: Fetch) -> None:
        objects = {f.digest: f.size for f in self._findings if f.digest is not None and f.size is not None and f.hurts}
        wanted = dict(self._store.residence.lacking(objects.items()))
        commits = {f.commit for f in self._findings if f.kind == "commit" and f.commit is not None}
        frames, trees = self._trees.lacking(self._findings)
        if wanted or commits or frames or trees:
            fetch(wanted, frames, {commit for commit in commits if not self._store.commits.exists(commit)} | trees)
        lacking = dict(self._store.residence.lacking(wanted.items()))
        for finding in self._findings:
            if finding.digest in wanted and finding.digest not in lacking:
                finding.repair = "restored"
            if finding.commit in commits and self._store.commits.exists(finding.commit):
                finding.repair = "restored"
        self._trees.note_restored(self._findings)

    def _image(self, finding: Finding) -> str | None:
        assert finding.commit is not None
        self._take(finding)
        return "it is made again when it is needed"

    # Refs

    def _tag(self, finding: Finding) -> str | None:
        """Where the reflog says that it was last, if that commit is there."""
        name, _, tag = finding.hurts[0].partition(":")
        commit = None
        for entry in self._store.reflog.read(name):
            if (entry.kind, entry.which) == ("tag", tag):
                commit = entry.new
        self._take(finding)
        if commit is None or not self._store.commits.exists(commit):
            finding.problem += "; it is in quarantine now, and the history names no commit for it"
            return None
        self._store.tags.set(name, tag, commit, force=True, why="fsck: where the reflog had it last")
        return f"set to {commit}, where the reflog had it last"

    def _reflog(self, finding: Finding) -> str | None:
        path = self._path(finding)
        name = path.parent.name
        lines = self._store.reflog.lines(name)
        bad = [line for line in lines if line and parse_entry(line) is None]
        good = [line for line in lines if line and parse_entry(line) is not None]
        if bad:
            self._quarantine.keep(path, b"\n".join(bad) + b"\n")
            self._taken.add(finding.path)
        with self._store.begin(f"repairing {path}") as tx:
            tx.place_file(b"".join(line + b"\n" for line in good), path)
        added = self._tell_of_refs(name)
        if not good:
            return "begun anew with where tags and worktrees are"
        put = ["damaged lines put into quarantine"] if bad else []
        return ", ".join([*put, *(f"told where {which} is" for which in added)]) or "mended already"

    def _moves(self, finding: Finding) -> str | None:
        """Without the damaged lines, which peers send again."""
        path = self._path(finding)
        if path.name != LOG:
            return self._take(finding)
        with self._store.begin(f"repairing {path}") as tx:
            bad = self._store.moves.without_damaged(tx, path.parent.parent.name)
        if not bad:
            return "mended already"
        self._quarantine.keep(path, bad)
        self._taken.add(finding.path)
        return "damaged lines put into quarantine"

    def _history(self, finding: Finding) -> str | None:
        """The settings as a worktree's file; a log is mended once, whatever is wrong with it."""
        path = self._path(finding)
        if path.name == SETTINGS:
            repaired = self._worktree(finding)
            if repaired is None:
                finding.problem += "; 'stratum history on' switches it on again"
            return repaired
        top, name, *rest = Path(finding.path).parts
        worktree = rest[1] if top == "refs" else rest[0]
        histories = self._store.histories
        try:
            with histories.writing():
                done = mend(histories.log(name, worktree), self._quarantine)
        except BusyError as exc:
            raise DamagedError(exc.message) from None
        if self._quarantine.directory.exists():
            self._taken.add(finding.path)
        return done

    def _tell_of_refs(self, name: str) -> list[str]:
        """Add to the history where refs are that it does not know to be there; their names."""
        reflog = self._store.reflog
        places: list[Place] = [("tag", tag, commit) for tag, commit in self._store.tags.list(name).items()]
        places += [("worktree", tree.worktree, tree.commit) for tree in self._store.worktrees.list(name)]
        added = unknown(reflog.read(name), places)
        for kind, which, commit in added:
            reflog.append(name, kind, which, None, commit, "fsck: the history before was lost")
        return [which for _, which, _ in added]
