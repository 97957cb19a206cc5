"""Rebase: nothing that the other side replaced comes back, and a conflict changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stratum.api import maintenance, transfer, worktrees
from stratum.api.history import Opened
from stratum.api.rebasing import RebaseConflictError, rebase
from stratum.api.session import Session
from stratum.config import load_config
from stratum.tree.model import Directory, File
from tests.cli.trees import make_tree, shown
from tests.support.command import Command
from tests.support.effort import examples
from tests.support.stores import directory, snapshot

pytestmark = pytest.mark.root

Files = dict[str, str]


@pytest.fixture
def app(cli: Command, tmp_path: Path) -> str:
    """``x:c0`` with the files a, b and c, and ``x+main`` on it; the commit."""
    commit = cli.ok("import", "--bare", make_tree(tmp_path / "src", {"a": "0", "b": "0", "c": "0"}), "x:c0")
    cli.ok("worktree", "add", "x+main", "x:c0")
    return commit


def change(cli: Command, ref: str, **files: str) -> None:
    """Write files into a worktree that is not mounted."""
    place = Path(cli.ok("mount", ref))
    make_tree(place, files)
    cli.ok("unmount", ref)


def look(cli: Command, ref: str) -> Files:
    """What a worktree shows."""
    record = next(
        (m for s in cli.json("status", "x") for t in s["worktrees"] for m in t["mounts"] if m["ref"] == ref), None
    )
    if record is not None:
        return {name: text or "" for name, text in shown(Path(record["mountpoint"])).items()}
    place = Path(cli.ok("mount", ref))
    found = shown(place)
    cli.ok("unmount", ref)
    return {name: text or "" for name, text in found.items()}


def live(cli: Command, mounted: bool) -> None:
    if mounted:
        cli.ok("mount", "x+main")


@pytest.mark.parametrize("mounted", [True, False])
def test_a_commit_made_on_top_of_ones_own_is_a_fast_forward(cli: Command, app: str, mounted: bool) -> None:
    change(cli, "x+main", a="1")
    cli.ok("commit", "x+main", "c1")
    cli.ok("worktree", "add", "x+other", "x:c1")
    change(cli, "x+other", a="2")
    newer = cli.ok("commit", "x+other", "c2")
    change(cli, "x+main", b="mine")
    live(cli, mounted)
    done = cli.json("rebase", "x+main", "x:c2")
    assert (done["conflicts"], done["base"]) == ([], newer)
    assert look(cli, "x+main") == {"a": "2", "b": "mine", "c": "0"}
    (tree,) = [t for t in cli.json("worktree", "list", "x") if t["worktree"] == "x+main"]
    assert (tree["base"], tree["head"]) == (newer, newer)
    if mounted:
        cli.ok("unmount", "x+main")


def test_status_has_a_last_commit_after_a_fast_forward(cli: Command, app: str) -> None:
    cli.ok("worktree", "add", "x+other", "x:c0")
    change(cli, "x+other", a="2")
    newer = cli.ok("commit", "x+other", "c2")
    cli.ok("rebase", "x+main", "x:c2")
    assert "none made from it yet" not in cli.ok("status", "x+main")
    assert cli.json("status", "x+main")[0]["worktrees"][0]["head"] == newer
    assert cli.json("commit", "x+main")["changed"] is False


@pytest.mark.parametrize("mounted", [True, False])
def test_a_conflict_changes_nothing_and_lists_the_paths(cli: Command, app: str, mounted: bool) -> None:
    cli.ok("worktree", "add", "x+other", "x:c0")
    change(cli, "x+other", a="theirs", b="theirs")
    cli.ok("commit", "x+other", "c2")
    change(cli, "x+main", a="mine", c="mine")
    live(cli, mounted)
    upper = cli.store / "refs/x/worktrees/main"
    before = (snapshot(upper), (cli.store / "refs/x/log.jsonl").read_bytes(), sorted(os.listdir(cli.store / "commits")))
    for options in ([], ["-n"]):
        code, out, err = cli("rebase", "x+main", "x:c2", *options)
        assert (code, out) == (4, "conflict /a\n")
        assert "/a" in err.splitlines()[0]
        assert "--ours" in err
        after = (
            snapshot(upper),
            (cli.store / "refs/x/log.jsonl").read_bytes(),
            sorted(os.listdir(cli.store / "commits")),
        )
        assert after == before
    if mounted:
        (place,) = [Path(m["mountpoint"]) for t in cli.json("status", "x+main")[0]["worktrees"] for m in t["mounts"]]
        (place / "b").write_text("0")  # it takes writes as before
    assert cli("rebase", "x+main", "x:c2", "--ours", "--theirs").code == 2
    assert cli.json("rebase", "x+main", "x:c2", "-n", "--ours")["conflicts"] == ["/a"]
    assert look(cli, "x+main") == {"a": "mine", "b": "0", "c": "mine"}
    assert cli.json("rebase", "x+main", "x:c2", "--theirs")["conflicts"] == ["/a"]
    assert look(cli, "x+main") == {"a": "theirs", "b": "theirs", "c": "mine"}
    if mounted:
        cli.ok("unmount", "x+main")


def test_ours_is_the_worktree(cli: Command, app: str) -> None:
    cli.ok("worktree", "add", "x+other", "x:c0")
    change(cli, "x+other", a="theirs", b="theirs")
    cli.ok("commit", "x+other", "c2")
    change(cli, "x+main", a="mine")
    cli.ok("rebase", "x+main", "x:c2", "--ours")
    assert look(cli, "x+main") == {"a": "mine", "b": "theirs", "c": "0"}


def test_what_a_worktree_began_with_is_not_its_own(cli: Command, app: str) -> None:
    change(cli, "x+main", a="2")
    cli.ok("commit", "x+main", "c1")
    cli.ok("worktree", "add", "x+profile", "x:c1")
    change(cli, "x+profile", c="save")
    cli.ok("rebase", "x+profile", "x:c0")
    assert look(cli, "x+profile") == {"a": "0", "b": "0", "c": "save"}


def test_onto_ones_own_earlier_commit_what_came_since_is_carried_and_stays_ones_own(cli: Command, app: str) -> None:
    change(cli, "x+main", a="1")
    cli.ok("commit", "x+main", "c1")
    change(cli, "x+main", b="2")
    cli.ok("commit", "x+main", "c2")
    assert cli.json("rebase", "x+main", "x:c1")["conflicts"] == []
    assert look(cli, "x+main") == {"a": "1", "b": "2", "c": "0"}
    cli.ok("worktree", "add", "x+vendor", "x:c0")
    change(cli, "x+vendor", c="new")
    cli.ok("commit", "x+vendor", "v2")
    cli.ok("rebase", "x+main", "x:v2")
    assert look(cli, "x+main") == {"a": "1", "b": "2", "c": "new"}


def test_after_a_fast_forward_ones_own_work_is_still_carried_elsewhere(cli: Command, app: str) -> None:
    change(cli, "x+main", a="1")
    cli.ok("commit", "x+main", "c1")
    cli.ok("worktree", "add", "x+other", "x:c1")
    change(cli, "x+other", b="2")
    cli.ok("commit", "x+other", "c2")
    cli.ok("rebase", "x+main", "x:c2")
    cli.ok("worktree", "add", "x+vendor", "x:c0")
    change(cli, "x+vendor", c="new")
    cli.ok("commit", "x+vendor", "v2")
    cli.ok("rebase", "x+main", "x:v2")
    assert look(cli, "x+main") == {"a": "1", "b": "2", "c": "new"}


def test_behind_a_gap_in_history_nothing_is_taken_back_silently(cli: Command, app: str) -> None:
    change(cli, "x+main", a="1")
    cli.ok("commit", "x+main", "c1")
    cli.ok("worktree", "add", "x+other", "x:c1")
    change(cli, "x+other", b="1")
    between = cli.ok("commit", "x+other")
    change(cli, "x+other", a="0")
    cli.ok("commit", "x+other", "c3")
    (cli.store / "grounds").mkdir(exist_ok=True)
    (cli.store / "commits" / between).rename(cli.store / "grounds" / between)  # as a collection does
    code, out, err = cli("rebase", "x+main", "x:c3")
    assert (code, out) == (4, "conflict /a\n")
    assert "not known" in err
    cli.ok("rebase", "x+main", "x:c3", "--theirs")
    assert look(cli, "x+main") == {"a": "0", "b": "1", "c": "0"}


def test_a_volume_that_moves_to_another_host_and_back(cli: Command, app: str, tmp_path: Path) -> None:
    """A commits and pushes; B makes two generations and pushes the last; A pulls that and rebases: A has B's state."""
    there = Command(tmp_path / "store-b", cli.runtime_dir)
    place = f"oci:{tmp_path / 'layout'}"
    change(cli, "x+main", a="1", b="1")
    cli.ok("commit", "x+main", "gen1")
    cli.ok("push", "x:gen1", f"{place}:gen1")
    there.ok("pull", f"{place}:gen1", "x:gen1")
    there.ok("worktree", "add", "x+b", "x:gen1")
    for number in (2, 3):
        change(there, "x+b", a=f"{number}", c=f"{number}")
        there.ok("commit", "x+b", f"gen{number}")
    change(there, "x+b", a="0")
    there.ok("commit", "x+b", "gen4")
    there.ok("push", "x:gen4", f"{place}:gen4")
    cli.ok("pull", f"{place}:gen4", "x:gen4")
    assert cli.json("rebase", "x+main", "x:gen4")["conflicts"] == []
    assert look(cli, "x+main") == {"a": "0", "b": "1", "c": "3"}


# --- any histories --------------------------------------------------------------------------------------------------

PATHS = ("a", "b")
sides = st.integers(0, 1)
edits = st.tuples(st.just("edit"), sides, st.sampled_from(PATHS), st.sampled_from(["", "0", "1", "2"]))
works = st.tuples(st.just("work"), sides, st.sampled_from(PATHS), st.sampled_from(["", "0", "1"]))
"""An edit and its commit."""
rebases = st.tuples(st.just("rebase"), sides, st.sampled_from(["ours", "theirs"]), st.none())
collections = st.tuples(st.just("collect"), sides, st.none(), st.none())
losses = st.tuples(st.just("lose"), sides, st.none(), st.none())


class Host:
    """A store with a worktree ``x+NAME``, and what is known of its commits: their files, and their true parents."""

    def __init__(self, root: Path, name: str) -> None:
        self.session = Session(load_config({}, store=str(root / "store"), runtime_dir=str(root / "run")))
        self.session.create_store()
        self.name = name

    @property
    def head(self) -> str:
        return self.session.store.worktrees.get("x", self.name).commit

    def shows(self) -> Files:
        return files_of(Opened(self.session).tree_of(f"x+{self.name}"))

    def edit(self, path: str, content: str) -> None:
        """Write or, with no content, delete a file in the upperdir, as the kernel would."""
        tree = self.session.store.worktrees.get("x", self.name)
        place = tree.upperdir / path
        if place.is_symlink() or place.exists() or _is_device(place):
            place.unlink()
        if content:
            place.write_text(content)
        elif path in files_of(self.session.store.commits.tree(tree.base_commit)):
            os.mknod(place, stat.S_IFCHR, 0)


def _is_device(place: Path) -> bool:
    return os.path.lexists(place) and stat.S_ISCHR(place.lstat().st_mode)


def files_of(tree: Directory) -> Files:
    return {name.decode(): (i.content or b"").decode() for name, i in tree.children.items() if isinstance(i, File)}


class Histories:
    """Two worktrees and the truth about them; ``operate`` does one thing and checks what has to hold."""

    def __init__(self, hosts: tuple[Host, Host], travel: Callable[[int, str], None]) -> None:
        self.hosts = hosts
        self.travel = travel
        self.number = 0
        self.parents: dict[str, str] = {}
        self.files: dict[str, Files] = {}
        self.lost = False

    def known(self, commit: str, host: Host) -> None:
        self.files[commit] = files_of(host.session.store.commits.tree(commit))

    def operate(self, what: str, side: int, first: str | None, second: str | None) -> None:
        host = self.hosts[side]
        if what == "edit":
            assert first is not None
            assert second is not None
            host.edit(first, second)
        elif what == "work":
            assert first is not None
            assert second is not None
            host.edit(first, second)
            self.number += 1  # every commit is another one, whatever the files hold
            host.edit(f"commit-of-{host.name}", str(self.number))
            before = host.head
            with host.session.hold(f"x+{host.name}") as held:
                made = held.commit().commit
            self.parents[made] = before
            self.known(made, host)
        elif what == "lose":
            self.lose(host)
        elif what == "collect":
            maintenance.gc(host.session, maintenance.retention(age="0", history="0"))
        else:
            self.rebase(side, first)

    def lose(self, host: Host) -> None:
        store = host.session.store
        needed = {
            c
            for h in self.hosts
            for w in h.session.store.worktrees.list("x")
            for c in (w.base_commit, w.commit, w.forked_from)
        }
        for commit in store.commits.list():
            if commit not in needed:
                store.commits.remove([commit])
                self.lost = True
                return

    def line(self, commit: str) -> list[str]:
        found = [commit]
        while found[-1] in self.parents:
            found.append(self.parents[found[-1]])
        return found

    def rebase(self, side: int, prefer: str | None) -> None:
        host, other = self.hosts[side], self.hosts[1 - side]
        target, head = other.head, host.head
        self.travel(1 - side, target)
        before, wanted = host.shows(), self.files[target]
        meta = host.session.store.layout.worktree("x", host.name) / "meta.toml"
        state = (snapshot(meta.parent), host.session.store.reflog.lines("x"))
        try:
            rebase(host.session, f"x+{host.name}", target)
        except RebaseConflictError as exc:
            assert (snapshot(meta.parent), host.session.store.reflog.lines("x")) == state
            conflicts = {path.decode()[1:] for path in exc.conflicts}
            rebase(host.session, f"x+{host.name}", target, prefer="ours" if prefer == "ours" else "theirs")
        else:
            conflicts = set()
        after = host.shows()
        assert host.head == target
        descends = head in self.line(target)
        common = next((c for c in self.line(target) if c in self.line(head)), None)
        for path in {*before, *wanted, *after}:
            ours, theirs, held = before.get(path), wanted.get(path), after.get(path)
            if path in conflicts:
                assert held == (ours if prefer == "ours" else theirs), path
                assert ours != theirs
            elif descends and ours == self.files[head].get(path):
                assert held == theirs, f"{path}: brought back what was replaced"
            elif common is not None and not self.lost:
                ground = self.files[common].get(path)
                if ours == ground:
                    assert held == theirs, f"{path}: not this side's own"
            assert held in (ours, theirs)
        if descends and not self.lost:
            own = {p for p in {*before, *self.files[head]} if before.get(p) != self.files[head].get(p)}
            assert conflicts <= own


def start(hosts: tuple[Host, Host]) -> Histories:
    """Both hosts have ``x:c0`` with the files a and b, and a worktree on it."""
    commit = ""
    for host in {id(h.session): h for h in hosts}.values():
        store = host.session.store
        with store.begin("a test") as tx:
            root = directory({name: File(0o100644, 0, 0, 0, size=1, content=b"0") for name in (b"a", b"b")})
            commit = store.commits.write(tx, root).metadata_hash
        store.tags.set("x", "c0", commit)
    for host in hosts:
        worktrees.add(host.session, f"x+{host.name}", "x:c0")
    histories = Histories(hosts, lambda side, target: None)
    histories.known(commit, hosts[0])
    return histories


@settings(max_examples=examples(12), phases=[Phase.generate])
@given(st.lists(edits | works | works | rebases | rebases, min_size=10, max_size=20))
def test_no_rebase_of_any_history_onto_any_other_brings_back_what_was_replaced(
    steps: list[tuple[str, int, str | None, str | None]],
) -> None:
    root = Path(tempfile.mkdtemp(prefix="stratum-test-"))
    try:
        one = Host(root, "one")
        two = Host(root, "two")
        two.session = one.session
        histories = start((one, two))
        for step in steps:
            histories.operate(*step)
    finally:
        shutil.rmtree(root)


@settings(max_examples=examples(10), phases=[Phase.generate])
@given(st.lists(edits | works | works | losses | rebases | rebases, min_size=10, max_size=20))
def test_nor_where_commits_are_missing(steps: list[tuple[str, int, str | None, str | None]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="stratum-test-"))
    try:
        one, two = Host(root, "one"), Host(root, "two")
        two.session = one.session
        histories = start((one, two))
        for step in steps:
            histories.operate(*step)
    finally:
        shutil.rmtree(root)


@settings(max_examples=examples(10), phases=[Phase.generate])
@given(st.lists(edits | works | works | collections | rebases | rebases, min_size=10, max_size=20))
def test_nor_where_older_commits_were_collected(steps: list[tuple[str, int, str | None, str | None]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="stratum-test-"))
    try:
        one, two = Host(root, "one"), Host(root, "two")
        two.session = one.session
        histories = start((one, two))
        one.session.store.tags.remove("x", "c0")
        for step in steps:
            histories.operate(*step)
    finally:
        shutil.rmtree(root)


@settings(max_examples=examples(6), phases=[Phase.generate])
@given(st.lists(edits | works | works | rebases | rebases, min_size=8, max_size=16))
def test_nor_between_hosts_that_push_and_pull(steps: list[tuple[str, int, str | None, str | None]]) -> None:
    """Each side sends only the commit that the other is to rebase onto, by way of a layout."""
    root = Path(tempfile.mkdtemp(prefix="stratum-test-"))
    try:
        hosts = Host(root / "1", "one"), Host(root / "2", "two")
        histories = start(hosts)

        def travel(sender: int, commit: str) -> None:
            place = f"oci:{root / 'layout'}:{commit[:12]}"
            session = hosts[sender].session
            transfer.push(session, f"x:{commit}", place, access=session.access())
            session = hosts[1 - sender].session
            transfer.pull(session, place, f"x:from-{commit[:12]}", access=session.access())

        histories.travel = travel
        for step in steps:
            histories.operate(*step)
    finally:
        shutil.rmtree(root)
