"""Patterns of what is left out: what git says is the measure, and no pattern costs much."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.tree.ignore import Rules, lines_of, parse_pattern, parse_patterns, verdict_of
from tests.support.capabilities import program
from tests.support.effort import examples

TREE = (
    *("a/a/ab/b", "a/ab/ba", "a/b/a.b", "b/a/a/a", "b/aab/aba", "ab/ba/b", "aab", "a.b", "ba/]/-", "ba/[a", "!/a/b"),
    *("#a", "\\a/b", "a /b", "x/a/b/c/ab", "x/ab/c"),
)
PIECES = st.sampled_from(
    (
        *(b"a", b"b", b"/", b"*", b"**", b"?", b"[ab]", b"[!a]", b"\\", b"**/", b"/**", b" ", b"!", b".", b"[", b"]"),
        *(b"-", b"[a-", b"[[:alpha:]]", b"[^", b"#", b"[b-a]", b"[]a]", b"[\\]]", b"c", b"ab", b"\r", b"[[:no:]]"),
        b"[[:]",
    )
)
LINES = st.lists(PIECES, min_size=1, max_size=6).map(b"".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a tree."""
    root = tmp_path_factory.mktemp("ignore")
    subprocess.run([program("git"), "init", "--quiet", str(root)], check=True)
    for path in TREE:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


def paths(root: Path) -> dict[bytes, bool]:
    """Path -> whether it is a directory."""
    found = (path for path in root.rglob("*") if ".git" not in path.parts and not path.name.endswith("ignore"))
    return {bytes(path.relative_to(root)): path.is_dir() for path in found}


def git_says(root: Path, asked: list[bytes]) -> set[bytes]:
    command = [program("git"), "-C", str(root), "check-ignore", "--no-index", "-z", "--stdin"]
    done = subprocess.run(command, input=b"\0".join(asked) + b"\0", capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split(b"\0")) - {b""}


def we_say(files: dict[bytes, bytes], asked: dict[bytes, bool]) -> set[bytes]:
    """What is left out by ignore files: directory (a path with a slash at its end) -> text."""
    rules = {place: Rules(parse_patterns(lines_of(text))) for place, text in files.items()}
    out = set()
    for path, is_directory in asked.items():
        names = path.split(b"/")
        for depth in range(1, len(names) + 1):
            above = b"/".join(names[:depth])
            in_force = [
                (place, rules[place]) for place in sorted(rules, key=len, reverse=True) if above.startswith(place)
            ]
            if verdict_of(in_force, above, is_directory or depth < len(names)):
                out.add(path)
                break
    return out


@settings(max_examples=examples(40))
@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=2), st.sampled_from([b"\n", b"\r\n"]))
def test_as_git_has_it(repository: Path, top: list[bytes], inner: list[bytes], ending: bytes) -> None:
    files = {b"": ending.join(top) + ending, b"a/": ending.join(inner)}
    for place, text in files.items():
        (repository / place.decode() / ".gitignore").write_bytes(text)
    asked = paths(repository)
    assert we_say(files, asked) == git_says(repository, list(asked))


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (b"*.log", {b"x.log", b"d/x.log"}),
        (b"/x.log", {b"x.log"}),
        (b"d/x.log", {b"d/x.log"}),
        (b"d/", {b"d", b"d/x.log", b"d/e", b"d/e/f"}),
        (b"f/", set()),
        (b"**/f", {b"d/e/f"}),
        (b"d/**", {b"d/x.log", b"d/e", b"d/e/f"}),
        (b"d/**/f", {b"d/e/f"}),
        (b"*\n!d", {b"x.log", b"d/x.log", b"d/e", b"d/e/f"}),
        (b"*.log\n!/d/x.log", {b"x.log"}),
        (b"# d", set()),
        (b"\xef\xbb\xbfd", {b"d", b"d/x.log", b"d/e", b"d/e/f"}),
        (b"", set()),
    ],
)
def test_what_patterns_mean(text: bytes, left_out: set[bytes]) -> None:
    tree = {b"x.log": False, b"d": True, b"d/x.log": False, b"d/e": True, b"d/e/f": False}
    assert we_say({b"": text}, tree) == left_out


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"a*" * 100 + b"b", b"a" * 255),
        (b"/" + b"**/a/" * 40 + b"b", b"a/" * 2000 + b"c"),
        (b"/" + b"**/*a*a/" * 40 + b"b", b"aaa/" * 1000 + b"c"),
        (b"**/" + b"a*" * 20 + b"/" + b"?*/" * 40 + b"b", b"aaaaaaaa/" * 400 + b"c"),
        (b"*?" * 1000 + b"*b*" * 100, b"a" * 255),
        (b"/" + b"*/" * 1000 + b"b", b"a/" * 2000 + b"c"),
    ],
)
def test_no_pattern_takes_long(pattern: bytes, path: bytes) -> None:
    before = time.process_time()
    parsed = parse_pattern(pattern)
    assert parsed is not None
    assert not parsed.fits(path, path.rpartition(b"/")[2], False)
    assert time.process_time() - before < 20  # a pattern that tries everything would take years


@pytest.mark.parametrize("pattern", [b"[!a]" * 1000, b"[[:print:]]" * 372, b"[^/]*" * 800])
def test_sets_stay_small(pattern: bytes) -> None:
    """A set that is spelled out by its members takes the library of regular expressions 60 times as long."""
    parsed = parse_pattern(pattern)
    assert parsed is not None
    assert parsed.regex is not None
    assert len(parsed.regex.pattern) < 20 * len(pattern)
