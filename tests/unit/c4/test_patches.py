"""Patches of manifests, IDs between sections, and what directories say that were null."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from stratum.c4.ids import EMPTY, id_of_bytes
from stratum.c4.model import Manifest
from stratum.c4.patches import apply, diff
from stratum.c4.reader import read_sections, resolve, split_lines
from stratum.c4.writer import complete, id_of
from stratum.errors import UsageError
from tests.support.c4texts import ALFA, BRAVO, FILE, manifest_of, manifests, text_of
from tests.support.effort import examples

BASE = f"{FILE} a.txt {ALFA}\n"
ADDED = f"{FILE} b.txt {BRAVO}\n"


def chain(*texts: str) -> Manifest:
    return resolve(read_sections(split_lines(["".join(texts).encode()], "a.c4m"), "a.c4m"), "a.c4m")


def test_a_stream_of_updates() -> None:
    first = id_of_bytes(BASE.encode())
    second = id_of_bytes((BASE + ADDED).encode())
    text = BASE + f"{first}\n" + ADDED + f"{second}\n" + BASE
    assert text_of(manifest_of(text)) == ADDED
    assert text_of(chain(text + f"{id_of_bytes(ADDED.encode())}\n")) == ADDED


def test_the_id_may_be_that_of_the_section_above() -> None:
    first = id_of_bytes(BASE.encode())
    text = BASE + f"{first}\n" + ADDED + f"{id_of_bytes(ADDED.encode())}\n" + f"{FILE} c.txt -\n"
    assert text_of(manifest_of(text)) == BASE + ADDED + f"{FILE} c.txt -\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [(BASE + f"{BRAVO}\n" + ADDED, 2), (BASE + f"{id_of_bytes(BASE.encode())}\n" + ADDED + f"\n{ALFA}\n" + ADDED, 5)],
)
def test_another_id(text: str, line: int) -> None:
    with pytest.raises(UsageError, match=f"line {line}: .* is not the ID of what is above it") as caught:
        manifest_of(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [BASE + f"{id_of_bytes(BASE.encode())}\n", f"{ALFA}\n", f"{ALFA}\n{BRAVO}\n" + BASE, f"{ALFA}\n{ALFA}\n",
     BASE + f"{id_of_bytes(BASE.encode())}\n{BRAVO}\n" + ADDED],
)  # fmt: skip
def test_a_patch_without_entries(text: str) -> None:
    with pytest.raises(UsageError, match="a patch without entries"):
        manifest_of(text)


def test_a_base_from_elsewhere() -> None:
    base = manifest_of(BASE)
    text = f"\n{id_of(base)}\n" + ADDED
    assert manifest_of(text).base == id_of(base)
    assert text_of(manifest_of(text)) == ADDED
    found = manifest_of(text, base)
    assert (text_of(found), found.base) == (BASE + ADDED, None)
    with pytest.raises(UsageError, match="is not the ID"):
        manifest_of(text, manifest_of(ADDED))


def test_a_patch_of_nothing() -> None:
    text = f"{EMPTY}\n" + ADDED + f"{id_of_bytes(ADDED.encode())}\n" + ADDED
    assert text_of(chain(text)) == ""
    assert manifest_of(f"{EMPTY}\n" + ADDED).base is None


def test_a_patch_of_a_patch_of_what_is_not_here() -> None:
    sections = f"{ALFA}\n" + ADDED + f"{BRAVO}\n" + f"{FILE} b.txt -\n- - - d/ -\n  - - - e -\n"
    found = manifest_of(sections)
    assert found.base == ALFA
    assert text_of(found) == f"{FILE} b.txt -\n- - - d/ -\n  - - - e -\n"


def test_a_patch_in_a_directory() -> None:
    base = manifest_of(f"- - 3 d/ {ALFA}\n  - - 1 a -\n  - - 1 b -\n  - - 1 e/ -\n    - - 1 f -\n")
    patch = manifest_of(f"- - 4 d/ {BRAVO}\n  - - 1 a -\n  - - 2 c -\n  - - 1 e/ -\n")
    assert text_of(apply(base, patch, "p")) == f"- - 4 d/ {BRAVO}\n  - - 1 b -\n  - - 2 c -\n"
    assert "a -" in text_of(base)


def test_a_file_becomes_a_directory() -> None:
    old, new = manifest_of("- - 1 a -\n"), manifest_of("- - - a/ -\n  - - 1 b -\n")
    patch = diff(old, new)
    assert text_of(patch) == "- - 1 a -\n- - - a/ -\n  - - 1 b -\n"
    again = manifest_of(f"{id_of(old)}\n{text_of(patch)}", old)
    assert text_of(again) == text_of(new)


def test_a_file_and_a_directory_of_one_name() -> None:
    with pytest.raises(UsageError, match="line 3: b'a' is a file and a directory"):
        manifest_of(f"- - 1 a -\n{id_of(manifest_of('- - 1 a -'))}\n- - - a/ -\n")


def test_a_directory_whose_line_says_nothing_of_what_is_in_it() -> None:
    old, new = manifest_of("- - - d/ -\n  - - 1 a -\n"), manifest_of("- - - d/ -\n  - - 2 a -\n")
    patch = diff(old, new)
    assert text_of(apply(old, patch, "p")) == text_of(patch)
    assert text_of(patch).endswith("\n  - - 2 a -\n")
    assert not diff(old, manifest_of(text_of(old))).children


def test_ids_that_are_wrong() -> None:
    old, new = manifest_of(f"- - 1 d/ {ALFA}\n  - - 1 a -\n"), manifest_of(f"- - 1 d/ {ALFA}\n  - - 2 a -\n")
    old.children[b"d/"].time = new.children[b"d/"].time = 1
    with pytest.raises(UsageError, match="same line and ID"):
        diff(old, new)


@settings(max_examples=examples(100))
@given(manifests(), manifests())
def test_a_patch_makes_one_of_the_other(old: Manifest, new: Manifest) -> None:
    for manifest in (old, new):
        for node in list(manifest.children.values()):
            node.c4id = None if node.children is not None else node.c4id
        complete(manifest.children)
    try:
        patch = diff(old, new)
    except UsageError:  # a made-up ID is the same over other entries
        return
    assert text_of(apply(old, patch, "p")) == text_of(new)
    assert bool(patch.children) == (text_of(old) != text_of(new))
    text = f"{id_of(old)}\n{text_of(patch)}{id_of(new)}\n"
    if patch.children:
        sections = read_sections(split_lines([text.encode()], "p"), "p")
        assert text_of(resolve(sections, "p", base=old)) == text_of(new)
        assert text_of(chain(text_of(old), text)) == text_of(new)


@pytest.mark.parametrize(
    ("inside", "size", "time"),
    [
        ("", 0, None),
        ("  - - 1 a -\n", 1 + len("- - 1 a -\n"), None),
        ("  - 2025-01-01T00:00:00Z 5 a -\n  - 2024-01-01T00:00:00Z 6 b -\n", 11 + 2 * 29, 1735689600),
        ("  - - - a -\n  - - 1 b -\n", None, None),
        ("  - - - e/ -\n    - - 4 a -\n", 4 + 10 + len("- - 14 e/ -\n"), None),
    ],
)
def test_what_a_directory_says_by_what_is_in_it(inside: str, size: int | None, time: int | None) -> None:
    manifest = manifest_of(f"drwxr-xr-x - - d/ {ALFA}\n{inside}")
    before = text_of(manifest)
    id_of(manifest)
    assert text_of(manifest) == before
    for node in (manifest.children[b"d/"].children or {}).values():
        node.c4id = node.c4id or (BRAVO if node.children else None)
    complete(manifest.children)
    found = manifest.children[b"d/"]
    grown = 89 if inside.startswith("  - - - e/") else 0
    assert (found.size, found.time) == (size if size is None else size + grown, time)
