"""Histories that several hosts share: whatever they do, and in whatever order they talk, they show the same in the end,
and nothing is lost."""

from __future__ import annotations

import random
import stat
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from stratum.sync.line import Heads, Line
from stratum.sync.merging import Conflict, Merger, Value, conflicts_of, gathered
from stratum.sync.moves import Move, move_id, move_text, read_move
from stratum.tree.digest import metadata_hash
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File, Inode, lookup, walk

NAMES = (b"a", b"b", b"d")


def directory(children: dict[bytes, Inode], mode: int = 0o755) -> Directory:
    return Directory(stat.S_IFDIR | mode, 0, 0, 0, children=children)


def file(content: bytes, mtime: int = 0) -> File:
    return File(stat.S_IFREG | 0o644, 0, 0, mtime, size=len(content), content=content)


def edited(rng: random.Random, tree: Directory, depth: int = 2) -> Directory:
    """The tree with one change: something written, linked, removed, made a directory, or another mode."""
    children, name = dict(tree.children), rng.choice(NAMES)
    below = children.get(name)
    kind = rng.choice(("write", "write", "remove", "directory", "link", "mode", "down", "down"))
    if kind == "down" and isinstance(below, Directory) and depth:
        children[name] = edited(rng, below, depth - 1)
    elif kind == "remove":
        children.pop(name, None)
    elif kind == "directory" and depth:
        children[name] = edited(rng, directory({}), depth - 1)
    elif kind == "link" and isinstance(below, File):
        children[rng.choice(NAMES)] = below
    elif kind == "mode":
        return directory(children, rng.choice((0o755, 0o750, 0o700)))
    else:
        children[name] = file(b"%d" % rng.randrange(4), rng.randrange(3))
    return directory(children)


class World:
    """All trees that there are, by the commit that they are."""

    def __init__(self) -> None:
        self.trees: dict[str, Directory] = {}
        self.clock = 0

    def commit(self, tree: Directory) -> str:
        name = metadata_hash([write_dump(tree)])
        self.trees.setdefault(name, tree)
        return name


class Host:
    """What one host knows of a tag, and shows."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.author = f"host{number}~{number:016x}"
        self.line = Line()
        self.seen: Heads = ()
        self.shown = Value(None)

    def value(self, heads: Heads) -> Value:
        """What moves show, as a commit."""
        value = Merger(self.line, self.world.trees.__getitem__).value(heads) if heads else Value(None)
        commit = value.commit or (self.world.commit(value.tree) if value.tree is not None else None)
        return Value(commit, None, value.conflicts)

    def show(self) -> None:
        self.seen = self.line.heads
        self.shown = self.value(self.seen)

    def conflicts(self) -> list[Conflict]:
        return conflicts_of(self.line, self.shown)

    def own(self) -> Heads:
        """The moves of this host, and what they were made on: a worktree has that, and nothing of what came since."""
        return self.line.newest(
            self.line.before(name for name, move in self.line.moves.items() if move.author == self.author)
        )

    def move(self, commit: str | None, on: Heads, settles: tuple[tuple[bytes, str], ...] = (), time: int = 0) -> None:
        self.world.clock += 1
        value = self.value(on) if len(on) > 1 else Value(None)
        move = Move(
            tag="t",
            commit=commit,
            parents=on,
            author=self.author,
            time=time or self.world.clock,
            over=value.commit,
            conflicts=value.conflicts,
            settles=settles,
        )
        text = move_text(move)
        assert read_move(text) == move
        assert self.line.add(move_id(text), move)
        self.show()

    def hear(self, other: Host, rng: random.Random) -> None:
        """Take what another has, in any order that has parents first."""
        for name in other.line.since(self.line.heads if rng.random() < 0.5 else ()):
            assert self.line.add(name, other.line.moves[name])
        self.show()


def act(rng: random.Random, host: Host) -> None:
    """Something that a person does: edit, go back to an earlier commit, remove the tag, settle a conflict, or go on in
    a worktree that has nothing of what others did."""
    conflicts, kind, own = host.conflicts(), rng.random(), host.own()
    tree = host.world.trees[host.shown.commit] if host.shown.commit else directory({})
    skewed = rng.randrange(1, 100) if rng.random() < 0.3 else 0
    if kind < 0.1 and host.line.moves:
        host.move(rng.choice([move.commit for move in host.line.moves.values()]), host.seen)
    elif kind < 0.15:
        host.move(None, host.seen)
    elif kind < 0.3 and conflicts:
        one = rng.choice(conflicts)
        changed = edited(rng, tree) if rng.random() < 0.5 else tree
        host.move(host.world.commit(changed), host.seen, ((one.path, one.other),))
    elif kind < 0.6 and own:
        commit = host.value(own).commit
        before = host.world.trees[commit] if commit else directory({})
        host.move(host.world.commit(edited(rng, before)), own, time=skewed)
    else:
        host.move(host.world.commit(edited(rng, tree)), host.seen, time=skewed)


def nothing_is_lost(host: Host) -> None:
    """Whatever a head has that is not shown was there when others changed it, or is listed."""
    line, merger = host.line, Merger(host.line, host.world.trees.__getitem__)
    heads = [name for name in line.heads if line.moves[name].commit is not None]
    shown = host.world.trees[host.shown.commit] if host.shown.commit else directory({})
    listed = [(conflict.path, conflict.other) for conflict in host.conflicts()]
    settled = {path for move in line.moves.values() for path, _ in move.settles}
    pairs = [line.newest(line.before([a]) & line.before([b])) for a, b in combinations(heads, 2)]
    first = [Value(move.commit) for move in line.moves.values() if not move.parents]
    before = [*map(merger.value, filter(None, pairs)), *first]
    for head in heads:
        tree = host.world.trees[str(line.moves[head].commit)]
        for path, inode in walk(tree):
            if isinstance(inode, Directory) or value(lookup(shown, path)) == value(inode):
                continue
            told = any(other == head and (path + b"/").startswith(at.rstrip(b"/") + b"/") for at, other in listed)
            unchanged = any(value(lookup(merger.tree(one), path)) == value(inode) for one in before)
            assert told or unchanged or path in settled, (path, head)


def value(inode: Inode | None) -> object:
    return None if inode is None else (type(inode), inode.mode, inode.content_key())


@given(st.integers(0, 1 << 32), st.integers(2, 5))
def test_all_who_talked_show_the_same_and_nothing_is_lost(seed: int, count: int) -> None:
    rng, world = random.Random(seed), World()
    hosts = [Host(world, number) for number in range(count)]
    for _ in range(rng.randrange(3, 25)):
        host = rng.choice(hosts)
        if rng.random() < 0.6:
            act(rng, host)
        else:  # only one side hears of the other where the connection breaks
            host.hear(rng.choice(hosts), rng)
        nothing_is_lost(host)
    order = [*hosts, *hosts]  # each hears of all, by way of others
    rng.shuffle(order)
    for one, other in [*pairwise(order), *pairwise(reversed(order)), *pairwise(order)]:
        other.hear(one, rng)
    for host in hosts:
        host.hear(hosts[0], rng)
        hosts[0].hear(host, rng)
    for host in hosts:
        host.hear(hosts[0], rng)
    assert len({host.line.heads for host in hosts}) == 1
    assert len({host.shown.commit for host in hosts}) == 1
    assert all(host.conflicts() == hosts[0].conflicts() for host in hosts)
    nothing_is_lost(hosts[0])
    # What was written down of a merge is what anybody finds who makes it again.
    for move in hosts[0].line.moves.values():
        if len(move.parents) > 1:
            again = Line()
            for name, other in hosts[0].line.moves.items():
                if name in hosts[0].line.before(move.parents):
                    again.add(name, other)
            found = Merger(again, world.trees.__getitem__).value(move.parents)
            assert (found.commit or (world.commit(found.tree) if found.tree is not None else None)) == move.over
            assert found.conflicts == move.conflicts


def test_many_conflicts_become_those_of_directories() -> None:
    many = [(b"/d%d/%d/x" % (n % 3, n), "1" * 64, "2" * 64) for n in range(50)]
    assert [path for path, _, _ in gathered(many, 10)] == [b"/d0/", b"/d1/", b"/d2/"]
    assert gathered(many, 50) == tuple(sorted(many))
