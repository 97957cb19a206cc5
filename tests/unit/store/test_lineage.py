"""How commits are related, for any histories; and what a rebase makes of them, all in memory."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.store.lineage import Lineages, Recorded
from stratum.tree.merge import common_ground, rebase
from stratum.tree.model import Directory, File
from tests.support.effort import examples


class Told(Lineages):
    """Lineages of commits whose parents are told here; those that are ``gone`` are not here."""

    def __init__(self, parents: Mapping[str, tuple[str, ...]], gone: frozenset[str] = frozenset()) -> None:
        self.parents = parents
        self.gone = gone

    def has(self, commit: str) -> bool:
        return commit in self.parents and commit not in self.gone

    def known(self, commit: str) -> Recorded:
        parents = self.parents[commit]
        return Recorded(parents, all(map(self.has, parents)))


numbers = st.integers(0, 7)


@st.composite
def graphs(draw: st.DrawFn) -> Told:
    """Commits 0 to 7 with up to two parents each, which may be any, later ones and themselves as well."""
    return Told({str(n): tuple(map(str, draw(st.lists(numbers, max_size=2, unique=True)))) for n in range(8)})


def reach(told: Told, commit: str) -> set[str]:
    """The commit and its ancestors, found in the plainest way."""
    found = {commit}
    for _ in range(8):
        found |= {parent for member in found for parent in told.parents[member]}
    return found


@given(graphs(), numbers, numbers)
def test_ancestors_and_meetings_are_those_of_the_graph(told: Told, first: int, second: int) -> None:
    ours, theirs = str(first), str(second)
    assert set(told.lineage(ours).distance) == reach(told, ours)
    assert told.lineage(ours).whole
    assert told.descends(ours, theirs) == (theirs in reach(told, ours))
    meeting = told.meeting(ours, theirs)
    common = reach(told, ours) & reach(told, theirs)
    assert bool(meeting.commits) == bool(common)
    assert set(meeting.commits) <= common
    if ours in reach(told, theirs):
        assert meeting.commits == (ours,)
    elif theirs in reach(told, ours):
        assert meeting.commits == (theirs,)
    else:
        assert all(any(commit in reach(told, met) for met in meeting.commits) for commit in common)
        if meeting.sure and meeting.commits:
            assert common == reach(told, meeting.commits[0])


# --- two sides that work, look at each other and rebase -------------------------------------------------------------

Files = dict[str, int]
sides = st.integers(0, 1)
contents = st.sampled_from([0, 1, None])
steps = st.one_of(
    st.tuples(st.just("edit"), sides, st.sampled_from("ab"), contents),
    st.tuples(st.just("work"), sides, st.sampled_from("ab"), contents),  # an edit and its commit
    st.tuples(st.just("work"), sides, st.sampled_from("ab"), contents),
    st.tuples(st.just("rebase"), sides, st.booleans(), st.none()),
    st.tuples(st.just("rebase"), sides, st.booleans(), st.none()),
)
losses = st.tuples(st.just("lose"), sides, st.none(), st.integers(0, 2))


def tree(files: Files) -> Directory:
    return Directory(
        0o40755,
        0,
        0,
        0,
        children={name.encode(): File(0o100644, 0, 0, 0, size=1, content=b"%d" % n) for name, n in files.items()},
    )


def files(root: Directory) -> Files:
    return {name.decode(): int((i.content or b"") if isinstance(i, File) else b"") for name, i in root.children.items()}


class Side:
    """A worktree: what it shows, its last commit, and where its line of work began."""

    def __init__(self, shows: Files) -> None:
        self.shows = shows
        self.head = self.fork = "0"


class World:
    """All commits, with their true parents, and two worktrees on the first."""

    def __init__(self) -> None:
        self.commits: dict[str, Files] = {"0": {"a": 0, "b": 0}}
        self.parents: dict[str, tuple[str, ...]] = {"0": ()}
        self.gone: set[str] = set()
        self.sides = (Side({"a": 0, "b": 0}), Side({"a": 0, "b": 0}))

    def line(self, commit: str) -> list[str]:
        found = [commit]
        while self.parents[found[-1]]:
            found.append(self.parents[found[-1]][0])
        return found

    def commit(self, side: Side) -> None:
        name = str(len(self.commits))
        self.commits[name] = dict(side.shows)
        self.parents[name] = (side.head,)
        side.head = name

    def lose(self, number: int) -> None:
        """Lose the newest commit but ``number`` of those that no side is on."""
        needed = {commit for side in self.sides for commit in (side.head, side.fork)}
        candidates = [commit for commit in self.commits if commit not in needed and commit not in self.gone]
        self.gone.update(candidates[::-1][number : number + 1])

    def rebase(self, side: Side, target: str, theirs: bool) -> None:
        told = Told(self.parents, frozenset(self.gone))
        ground = told.ground(side.head, side.fork, target)
        base = common_ground([tree(self.commits[commit]) for commit in ground.commits])
        done = rebase(base, tree(side.shows), tree(self.commits[target]), theirs=theirs)
        conflicts = {path.decode()[1:] for path in done.conflicts}
        before, after = side.shows, files(done.tree)
        self.judge(side, before, after, target, conflicts)
        assert ground.sure or self.gone
        side.shows, side.head, side.fork = after, target, target

    def judge(self, side: Side, before: Files, after: Files, target: str, conflicts: set[str]) -> None:
        wanted, head = self.commits[target], self.commits[side.head]
        for path in {*before, *wanted, *after} - conflicts:
            assert after.get(path) in (before.get(path), wanted.get(path))
            if side.head in self.line(target) and before.get(path) == head.get(path):
                assert after.get(path) == wanted.get(path), f"{path}: brought back what was replaced"
            if before.get(path) != head.get(path):
                assert after.get(path) in (before.get(path), wanted.get(path))
                if wanted.get(path) == head.get(path) and not self.gone and side.head in self.line(target):
                    assert after.get(path) == before.get(path), f"{path}: uncommitted work is lost"


@settings(max_examples=examples(600))
@given(st.lists(steps, min_size=12, max_size=30) | st.lists(steps | losses, min_size=12, max_size=30))
def test_no_history_of_two_sides_brings_back_what_was_replaced(
    done: list[tuple[str, int, str | bool | None, int | None]],
) -> None:
    world = World()
    for what, number, first, second in done:
        side, other = world.sides[number], world.sides[1 - number]
        if what in ("edit", "work"):
            side.shows = {name: n for name, n in side.shows.items() if name != first}
            if second is not None:
                side.shows[str(first)] = second
            if what == "work":
                world.commit(side)
        elif what == "lose":
            world.lose(second or 0)
        else:
            world.rebase(side, other.head, bool(first))
