"""Checking a store: everything in it against what the names, hashes and formats say it should be.

In this order, so that whatever a running command adds meanwhile is complete by the time it is met: refs, commits,
objects. Memory grows with the number of distinct objects, not with their size: one dump is in memory at a time, and of
what commits share each line is read once (``store.treecheck``), again where it has to be told whom a bad object hurts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.progress import Progress
from stratum.refs import is_name
from stratum.store.ancestry import Ancestry
from stratum.store.blobcheck import BlobCheck
from stratum.store.budget import BUDGET, parse_budget
from stratum.store.findings import LOST_ATTRIBUTES, PATHS_SHOWN, UNCHECKED, Finding, Kind, Telling
from stratum.store.histories import SETTINGS
from stratum.store.images import SUFFIX
from stratum.store.keeping import RESIDENCE, read_rules
from stratum.store.layout import ANCESTORS
from stratum.store.logcheck import named_objects, needs
from stratum.store.moves import LOG, MOVES, STATE
from stratum.store.peerbook import BOOK, KEY, PEERS, PROMISES
from stratum.store.pins import PINS, read_pins
from stratum.store.records import DIRECTORIES, is_record_name, read_record
from stratum.store.reflog import Place, is_cut_short, unknown
from stratum.store.sourcecheck import PartialCommit, SourceCheck
from stratum.store.survey import Survey
from stratum.store.tables import is_checked
from stratum.store.treecheck import TreeCheck, batches, chosen, lines_of_all
from stratum.store.treerecord import split_file
from stratum.store.worktree import Worktree
from stratum.sys.copymark import LostAttributesError, check_mark
from stratum.tree.contents import object_lines

if TYPE_CHECKING:
    from stratum.store.facts import Facts
    from stratum.store.segments import Log, Segment
    from stratum.store.store import Store


@dataclass(slots=True)
class Checked:
    """What a check looked at and found. ``data_read`` says whether objects and images were read in full; ``partial``
    are the commits that are not here whole."""

    data_read: bool
    commits: int = 0
    objects: int = 0
    bytes_read: int = 0
    findings: list[Finding] = field(default_factory=list)
    partial: list[PartialCommit] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that are not harmless and not repaired."""
        return [finding for finding in self.findings if not finding.harmless and finding.repair is None]


def check(store: Store, *, read_data: bool = True, progress: Progress | None = None) -> Checked:
    """Check everything; with ``read_data`` also every byte of objects and images. Changes nothing.

    ``progress`` is told the bytes of objects that were read, of those that are needed. Raises only what keeps the store
    from being read at all.
    """
    return _Check(store, read_data, progress).run()


class _Check:
    def __init__(self, store: Store, read_data: bool, progress: Progress | None) -> None:
        self._store = store
        self._layout = store.layout
        self._progress = progress
        self._done = Checked(read_data)
        self._total = 0  # bytes of the objects that anything needs
        self._survey = Survey(store.layout)
        self._sources = SourceCheck(store, self._done.findings)
        self._users: dict[str, list[str]] = {}
        self._needed: dict[bytes, int] = {}
        self._versions: dict[bytes, tuple[int, str]] = {}  # size, and in whose history
        self._readable: list[str] = []
        self._bad: dict[bytes, list[Finding]] = {}

    def run(self) -> Checked:
        self._done.findings += self._survey.findings()
        for name in self._store.names():
            self._stratum(name)
        self._histories()
        self._boot_mounts()
        self._records()
        self._budget()
        self._peers()
        present = set(self._store.commits.list())
        for commit, users in sorted(self._users.items()):
            if not self._store.commits.exists(commit):
                self._tell(Finding("commit", f"commits/{commit}", "it is missing", users, commit=commit))
        trees = TreeCheck(self._store, self._done.findings, self._users, read_data=self._done.data_read)
        self._readable = trees.run()
        for commit in sorted(present):
            if self._store.commits.exists(commit):
                self._commit(commit, trees.facts.get(commit))
        self._images()
        self._need()
        self._sources.catalogs()
        BlobCheck(self._store, self._survey, self._done.findings, read_data=self._done.data_read).run()
        self._objects()
        self._whom_objects_hurt()
        self._done.partial = self._sources.partial
        return self._done

    def _tell(self, finding: Finding) -> None:
        self._done.findings.append(finding)

    def _telling(self, kind: Kind, path: str, ref: str) -> Telling:
        return Telling(self._done.findings, kind, path, ref)

    # Refs

    def _stratum(self, name: str) -> None:
        store = self._store
        places: list[Place] = []
        for tag in self._names(f"refs/{name}/tags"):
            ref = f"{name}:{tag}"
            with self._telling("tag", f"refs/{name}/tags/{tag}", ref):
                commit = store.tags.find(name, tag)
                if commit is not None:
                    self._users.setdefault(commit, []).append(ref)
                    places.append(("tag", tag, commit))
        for worktree in self._names(f"refs/{name}/worktrees"):
            places += self._worktree(name, worktree)
        self._reflog(name, places)
        with self._telling("pins", f"refs/{name}/{PINS}", name):
            for commit in read_pins(self._layout, name).commits:
                self._users.setdefault(commit, []).append(f"{name}:{commit}")
            self._tell_unchecked("pins", f"refs/{name}/{PINS}", name)
        with self._telling("rules", f"refs/{name}/{RESIDENCE}", name):
            read_rules(self._layout, name)
            self._tell_unchecked("rules", f"refs/{name}/{RESIDENCE}", name)

        with self._telling("moves", f"refs/{name}/{MOVES}", name):
            self._moves(name)

    def _moves(self, name: str) -> None:
        book = self._store.moves.read(name)
        for number in book.damaged:
            problem = f"line {number} is no move of a tag, or what it was made on is gone; peers have it"
            if number == book.torn:
                problem = f"line {number} is cut short, as a crash leaves it"
            hurts, harmless = ([], True) if number == book.torn else ([name], False)
            self._tell(Finding("moves", f"refs/{name}/{MOVES}/{LOG}", problem, hurts, harmless=harmless))
        for tag in book.lost if not book.damaged else ():
            problem = f"it lacks moves that {name}:{tag} shows: lines are lost; peers have them"
            self._tell(Finding("moves", f"refs/{name}/{MOVES}/{LOG}", problem, [name]))
        if book.is_lost:
            problem = "it is damaged; the next sync makes it anew"
            self._tell(Finding("moves", f"refs/{name}/{MOVES}/{STATE}", problem, [name]))

    def _names(self, directory: str) -> list[str]:
        try:
            return [name for name in self._layout.names_in(self._layout.root / directory) if is_name(name)]
        except StratumError:  # it is no directory: the survey tells
            return []

    def _worktree(self, name: str, worktree: str) -> list[Place]:
        """Check a worktree; where its head is, if it can be read."""
        places: list[Place] = []
        worktrees, path, ref = self._store.worktrees, f"refs/{name}/worktrees/{worktree}", f"{name}+{worktree}"
        with self._telling("worktree", path, ref):
            found = worktrees.get(name, worktree)
            places.append(("worktree", worktree, found.commit))
            for commit in {found.base_commit, found.commit, found.forked_from}:
                self._users.setdefault(commit, []).append(ref)
            interrupted = worktrees.interrupted_switch(name, worktree)
            if interrupted is not None and interrupted.old is not None:
                self._users.setdefault(interrupted.old.base_commit, []).append(ref)
            self._tell_unchecked("worktree", f"{path}/meta.toml", ref)
            self._tell_unchecked("worktree", f"{path}/switch.toml", ref)
            self._mark(found, path, ref)
        with self._telling("lease", f"{path}/lease.toml", ref):
            worktrees.lease(name, worktree)
            self._tell_unchecked("lease", f"{path}/lease.toml", ref)
        return places

    def _mark(self, worktree: Worktree, path: str, ref: str) -> None:
        try:
            check_mark(worktree.directory)
        except LostAttributesError:
            self._tell(Finding("worktree", path, LOST_ATTRIBUTES, [ref]))

    def _tell_unchecked(self, kind: Kind, path: str, ref: str) -> None:
        """Tell of a file that can be read and has no check, as one that was cut short between two lines has none."""
        with suppress(FileNotFoundError):
            if not is_checked(self._layout.read_beneath(self._layout.root / path)):
                self._tell(Finding(kind, path, UNCHECKED, [ref]))

    def _reflog(self, name: str, places: list[Place]) -> None:
        """Check the history of a stratum whose refs were seen at ``places``: an entry is older than its move."""
        path = f"refs/{name}/log.jsonl"
        with self._telling("reflog", path, name):
            lines = self._store.reflog.lines(name)
            refs = self._names(f"refs/{name}/tags") + self._names(f"refs/{name}/worktrees")
            if not lines or (lines == [b""] and refs):
                self._tell(Finding("reflog", path, "it is missing or empty: the history of moves is lost", [name]))
            entries, damaged = self._store.reflog.scan(name)
            for number in damaged:
                torn = number == len(lines) and is_cut_short(lines[-1])
                problem = f"line {number} is {'cut short, as a crash leaves it' if torn else 'damaged'}"
                self._tell(Finding("reflog", path, problem, [] if torn else [name], harmless=torn))
            for kind, which, commit in unknown(entries, places) if entries else ():
                problem = f"it does not tell how the {kind} {which} came to be at {commit}: lines are lost"
                self._tell(Finding("reflog", path, problem, [name]))
            self._lost_tags(name)

    def _lost_tags(self, name: str) -> None:
        """Tags that the history does not see removed. A crash just before a new tag appears leaves one too."""
        there = set(self._names(f"refs/{name}/tags"))
        last = {entry.which: entry.new for entry in self._store.reflog.read(name) if entry.kind == "tag"}
        for tag, commit in last.items():
            if commit is not None and tag not in there and is_name(tag):
                problem = f"the history has it at {commit}, and it is not there"
                self._tell(Finding("tag", f"refs/{name}/tags/{tag}", problem, harmless=True))

    def _histories(self) -> None:
        """Check the logs, and what they need: commits to begin with, and objects, which are met later."""
        histories = self._store.histories
        for name, worktree in histories.directories():
            ref = f"{name}+{worktree}"
            log = histories.log(name, worktree)
            path = str(log.directory.relative_to(self._layout.root))
            with self._telling("history", f"{path}/{SETTINGS}", ref):
                if histories.settings(name, worktree) is not None:
                    self._tell_unchecked("history", f"{path}/{SETTINGS}", ref)
            with self._telling("history", path, ref):
                for problem in histories.problems(name, worktree):
                    self._tell(Finding("history", path, f"it {problem}", [ref]))
            for segment in log.segments():
                with self._telling("history", f"{path}/{segment.name}", ref):
                    self._history_needs(log, segment, ref)

    def _history_needs(self, log: Log, segment: Segment, ref: str) -> None:
        for digest, size in named_objects(log, segment).items():
            self._versions.setdefault(digest, (size, ref))
        for commit in needs(log, segment).commits:
            users = self._users.setdefault(commit, [])
            if f"history of {ref}" not in users:
                users.append(f"history of {ref}")

    def _boot_mounts(self) -> None:
        """Check the records of mounts that outlive a reboot. One whose ref is gone is told, and is no damage."""
        mounts = self._store.boot_mounts
        for file in self._names_of_boot_mounts():
            path = f"mounts/{file}"
            with self._telling("mount", path, path), suppress(FileNotFoundError):
                record = mounts.read(file)
                self._tell_unchecked("mount", path, record.ref)
                if record.commit is not None:
                    self._users.setdefault(record.commit, []).append(f"mount at {record.mountpoint}")
                    continue
                try:
                    self._store.resolve(record.parsed())
                except NotFoundError as exc:
                    problem = f"{record.mountpoint} is to show {record.ref} at every start: {exc.message}"
                    self._tell(Finding("mount", path, problem, harmless=True))

    def _records(self) -> None:
        """Check the records of services, whichever they are."""
        for directory, what in DIRECTORIES.items():
            with suppress(StratumError):  # it is no directory: the survey tells
                for file in filter(is_record_name, self._layout.names_in(self._layout.root / directory)):
                    path, hurts = f"{directory}/{file}", f"{what} {file.rpartition('.')[0]}"
                    with self._telling("record", path, hurts), suppress(FileNotFoundError):
                        if not read_record(self._layout, self._layout.root / path)[1]:
                            self._tell(Finding("record", path, UNCHECKED, [hurts]))

    def _budget(self) -> None:
        with self._telling("rules", BUDGET, "the limits of the cache"), suppress(FileNotFoundError):
            parse_budget(self._layout.read_beneath(self._layout.root / BUDGET), BUDGET)
            self._tell_unchecked("rules", BUDGET, "the limits of the cache")

    def _peers(self) -> None:
        with self._telling("record", f"{PEERS}/{KEY}", "the key of this host"):
            self._store.peers.check_key()
        with self._telling("record", f"{PEERS}/{BOOK}", "the peers"):
            self._store.peers.check()
        with self._telling("record", f"{PEERS}/{PROMISES}", "what peers count on"):
            self._store.promises.check()

    def _names_of_boot_mounts(self) -> list[str]:
        try:
            return self._store.boot_mounts.files()
        except StratumError:  # it is no directory: the survey tells
            return []

    # Commits

    def _commit(self, commit: str, facts: Facts | None) -> None:
        """Check what is said of a commit, whose dump proves ``facts``, as far as that is known."""
        users, path = self._users.get(commit, [commit]), f"commits/{commit}"
        self._done.commits += 1
        with self._telling_commit("metadata", path, commit, users):
            meta = self._store.commits.meta(commit)
            if not is_checked(split_file(self._store.trees.file(commit)[1], path)[0]):
                self._tell(Finding("metadata", path, UNCHECKED, users, commit=commit))
            if facts is not None and not facts.agrees(meta):
                problem = "it does not say what the commit's tree holds"
                self._tell(Finding("metadata", path, problem, users, commit=commit))
        with self._telling_commit("ancestors", f"{path}.{ANCESTORS}", commit, users):
            Ancestry(self._store).recorded(commit)
        self._sources.commit(commit, users)

    def _images(self) -> None:
        """Compare the images that are here with what the trees of their commits give."""
        for commit in self._store.images.list() if self._done.data_read else ():
            if commit in self._readable:
                telling = self._telling_commit(
                    "image", f"cache/images/{commit}{SUFFIX}", commit, self._users.get(commit, [commit])
                )
                with telling, suppress(FileNotFoundError):
                    self._store.images.check(commit, self._store.commits.tree(commit))

    def _need(self) -> None:
        """Note which objects the commits that can be read need."""
        for batch in list(batches(self._readable)):
            self._note_needs(batch)

    def _note_needs(self, commits: Sequence[str]) -> None:
        try:
            self._needed.update(self._objects_of(commits))
        except DamagedError as exc:  # of one whose tree is right, and is not stored as any writer does
            if len(commits) > 1:
                for commit in commits:
                    self._note_needs([commit])
                return
            users = self._users.get(commits[0], list(commits))
            self._tell(Finding("dump", f"commits/{commits[0]}", exc.message, users, commit=commits[0]))
            self._readable = [commit for commit in self._readable if commit != commits[0]]

    def _objects_of(self, commits: Sequence[str]) -> Iterator[tuple[bytes, int]]:
        for lines, _ in lines_of_all(self._store, commits):
            yield from ((digest, size) for digest, size, _ in object_lines(lines))

    def _telling_commit(self, kind: Kind, path: str, commit: str, users: list[str]) -> Telling:
        return Telling(self._done.findings, kind, path, *users, commit=commit)

    # Objects

    def _objects(self) -> None:
        """Every object on disk, and which of those that commits need are not among them."""
        versions = {digest: size for digest, (size, _) in self._versions.items()}
        missing = versions | self._needed
        self._total = sum(missing.values())
        for digest in self._store.objects.names():
            expected = missing.pop(digest, None)
            self._done.objects += 1
            path = self._store.objects.path(digest)
            findings = list(self._survey.look(path, writable=False))
            problem = None if any(f.kind != "permissions" for f in findings) else self._wrong(digest, expected)
            if problem is not None:
                findings.append(Finding("object", str(path.relative_to(self._layout.root)), problem))
            for finding in findings:
                finding.digest, finding.size = digest, expected
                if finding.kind != "permissions":
                    self._bad.setdefault(digest, []).append(finding)
            self._done.findings += findings
        missing = dict(self._store.residence.lacking(missing.items()))
        for digest in missing.keys() & (self._versions.keys() - self._needed.keys()):
            path, (size, ref) = self._store.objects.path(digest), self._versions[digest]
            problem = f"it is missing: a version of {size} bytes in the history of {ref}"
            finding = Finding("object", str(path.relative_to(self._layout.root)), problem, [ref], digest=digest)
            finding.size = size
            self._tell(finding)
            del missing[digest]
        lost = self._sources.lost(missing, self._users, self._readable)
        gone = self._store.residence.listing({digest: missing[digest] for digest in lost})
        for digest in sorted(lost):
            path = self._store.objects.path(digest)
            problem = "it is missing"
            if digest not in gone[1]:
                problem += f", and {', '.join(source.place for source in gone[0])} has it no more"
            finding = Finding("object", str(path.relative_to(self._layout.root)), problem, digest=digest)
            finding.size = missing[digest]
            self._bad.setdefault(digest, []).append(finding)
            self._tell(finding)

    def _wrong(self, digest: bytes, expected: int | None) -> str | None:
        """What is wrong with the content of an object."""
        try:
            size = self._store.objects.size(digest)
            if expected is not None and size != expected:
                return f"it has {size} bytes instead of {expected}"
            if self._done.data_read:
                self._done.bytes_read += self._store.objects.verify(digest)
                if self._progress is not None:
                    self._progress(self._done.bytes_read, self._total, files=self._done.objects)
        except NotFoundError:  # collected at this moment
            return None
        except DamagedError:
            return "its content does not match its name"
        except StratumError as exc:
            return exc.message
        return None

    def _whom_objects_hurt(self) -> None:
        for batch in batches(self._readable) if self._bad else ():
            for lines, bits in lines_of_all(self._store, batch):
                for digest, _, path in object_lines(lines):
                    for finding in self._bad.get(digest, ()):
                        self._hurt(finding, chosen(batch, bits), path.decode("ascii", "backslashreplace"))

    def _hurt(self, finding: Finding, commits: list[str], path: str) -> None:
        for commit in commits:
            users = self._users.get(commit, [commit])
            finding.hurts += [user for user in users if user not in finding.hurts]
            if commit not in finding.needed_by:
                finding.needed_by.append(commit)
            where = f"{users[0]} {path}"
            if len(finding.files) < PATHS_SHOWN and where not in finding.files:
                finding.files.append(where)
