"""What the documents for developers name is there: files, folders, and every room of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_imports import floor_of

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "stratum"
DOCUMENTS = {
    "CONTRIBUTING.md": ("", "stratum", "tests"),
    "stratum/README.md": ("stratum", ""),
    "tests/README.md": ("tests", "", "stratum"),
    "tools/README.md": ("tools", ""),
}
"""Document -> the folders that paths in it begin in."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_paths_are_there(document: str) -> None:
    named = [
        text
        for text in re.findall(r"`([\w./*-]+)`", (CHECKOUT / document).read_text("utf-8"))
        if re.fullmatch(r"[\w*-][\w./*-]*(/|\.(py|md|toml|sh|txt|yaml))", text)
    ]
    assert named
    bases = [CHECKOUT / base for base in DOCUMENTS[document]]
    missing = [text for text in named if not any(list(base.glob(text)) for base in bases)]
    assert not missing


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "stratum/README.md"])
def test_every_room_is_on_the_map(document: str) -> None:
    text = (CHECKOUT / document).read_text("utf-8")
    rooms = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"]
    assert not [room for room in rooms if f"`{room}/`" not in text]


def test_docstrings_name_modules_that_are_there() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for room, name in re.findall(r"``([a-z]+)\.([a-z_]+)[`.]", path.read_text("utf-8")):
            there = not (PACKAGE / room).is_dir() or list((PACKAGE / room).glob(f"{name}*"))
            if not there and f"{room}.{name}" not in {"mount.stratum", "csi.storage"}:
                missing.append(f"{path}: {room}.{name}")
    assert not missing


def test_unit_tests_lie_in_folders_of_rooms() -> None:
    folders = [path.parent for path in Path(__file__).parent.glob("*/__init__.py")]
    assert folders
    assert not [folder for folder in folders if not (PACKAGE / folder.name).is_dir()]


def test_rooms_are_told_from_the_top() -> None:
    for document in ("CONTRIBUTING.md", "stratum/README.md"):
        rows = re.findall(r"^\| (`[^|]*`) \|", (CHECKOUT / document).read_text("utf-8"), re.MULTILINE)
        rooms = [name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row)]
        floors = [floor_of(room) for room in rooms]
        assert len(set(rooms)) == len(rooms)
        assert floors == sorted(floors)


PAGES = sorted(CHECKOUT.glob("*.md")) + sorted(CHECKOUT.glob("[!.]*/**/*.md"))
"""Every document of the project."""


def anchors(document: Path) -> set[str]:
    """What a link into a document can name: its headings, as forges write them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(document: Path) -> None:
    lost = []
    prose = re.sub(r"^```.*?^```$|^ {4}[^\n]*$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", prose):
        path = document.parent / target if target else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            lost.append(f"{target}#{anchor}")
    assert not lost


@pytest.mark.parametrize("folder", ["docs", "docs/reference"])
def test_an_index_lists_every_page(folder: str) -> None:
    index = CHECKOUT / folder / "README.md"
    named = re.findall(r"\]\(([^)#:\s]+)\)", index.read_text("utf-8"))
    pages = {path.name for path in index.parent.glob("*.md")} - {"README.md"}
    folders = {f"{path.parent.name}/README.md" for path in index.parent.glob("*/README.md")}
    assert pages | folders <= set(named)
