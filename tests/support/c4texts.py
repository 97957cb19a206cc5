"""C4M texts for tests: short ways to read and write them, and generated manifests."""

from __future__ import annotations

from hypothesis import strategies as st

from stratum.c4.ids import C4Id, id_of_bytes
from stratum.c4.model import UNGROUPED, UNKNOWN, Manifest, Node
from stratum.c4.reader import read, split_lines
from stratum.c4.times import FIRST, LAST
from stratum.c4.writer import write

ALFA = id_of_bytes(b"alfa")
BRAVO = id_of_bytes(b"bravo")
FILE = "-rw-r--r-- 2025-01-01T00:00:00Z 100"


def manifest_of(text: str | bytes, base: Manifest | None = None) -> Manifest:
    data = text.encode() if isinstance(text, str) else text
    return read(split_lines([data], "a.c4m"), "a.c4m", base=base)


def text_of(manifest: Manifest) -> str:
    return "".join(write(manifest))


def canonical(text: str) -> str:
    return text_of(manifest_of(text))


_names = st.text('ab01.[] \\"-/>c4', min_size=1, max_size=5).map(str.encode) | st.binary(min_size=1, max_size=5)
names = _names.filter(lambda name: name not in {b".", b".."} and b"/" not in name and b"\0" not in name)
ids = st.sampled_from([None, ALFA, BRAVO])
times = st.none() | st.integers(FIRST, LAST).filter(bool)
sizes = st.none() | st.integers(0, 2**63 - 1)
modes = st.none() | st.integers(0, 0o7777)


@st.composite
def _files(draw: st.DrawFn) -> Node:
    mode = draw(modes)
    kind = UNKNOWN if mode is None else draw(st.sampled_from("-lpsbc"))
    node = Node(draw(names), kind, mode, draw(times), draw(sizes), draw(ids))
    if kind == "l":
        node.target = draw(names | st.just(b"../a b/c4") | st.just(b"-"))
    elif kind == "-":
        node.group = draw(st.sampled_from([0, UNGROUPED, 7]))
        if not node.group:
            node.flow = draw(st.sampled_from(["", "->", "<-", "<>"]))
            node.place = draw(st.sampled_from(["nas:", "c4studio:in/a"])) if node.flow else ""
    return node


@st.composite
def _directories(draw: st.DrawFn, inside: st.SearchStrategy[dict[bytes, Node]]) -> Node:
    mode = draw(modes)
    node = Node(draw(names), "d", mode, draw(times), draw(sizes), draw(ids))
    node.children = draw(inside)
    return node


def _unique(nodes: list[Node]) -> dict[bytes, Node]:
    return {node.key: node for node in {node.name: node for node in nodes}.values()}


_leaves = st.lists(_files(), max_size=4).map(_unique)
_children = st.recursive(
    _leaves, lambda inside: st.lists(_files() | _directories(inside), max_size=4).map(_unique), max_leaves=8
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Trees as C4M can say them, with all that can be null."""
    manifest = Manifest()
    manifest.children = draw(_children)
    return manifest


def id_lines(*ids: C4Id) -> str:
    return "".join(ids) + "\n"
