"""verify: commits and paths of them, and proofs that a few independent lines check."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from stratum.store import Store
from tests.support.command import Command


def proven(proof: dict[str, Any], root: str) -> bool:
    """All that it takes to check a proof: RFC 9162's hashes with BLAKE3, from the line up to the known root."""
    value = blake3(b"\0" + proof["line"].encode()).digest()
    for sibling in proof["siblings"]:
        other = bytes.fromhex(sibling["hash"])
        value = blake3(b"\1" + (other + value if sibling["side"] == "left" else value + other)).digest()
    return value.hex() == root


@pytest.fixture
def root(cli: Command, tmp_path: Path) -> str:
    """The Merkle root of a commit ``app`` with a few files."""
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    for number in range(5):
        (source / "dir" / str(number)).write_bytes(b"%d" % number * 500)
    os.link(source / "dir/1", source / "z-link")
    (source / "a\nb\x1b[31m \udcff").write_bytes(b"x" * 100)
    cli.ok("import", "--bare", source, "app")
    found: str = cli.json("show", "app")["commit"]["merkle_root"]
    return found


@pytest.mark.parametrize("path", ["/", "/dir", "dir/3", "a\nb\x1b[31m \udcff", "/z-link", "//dir/./0/"])
def test_a_proof_is_checked_by_a_few_lines(cli: Command, root: str, path: str) -> None:
    proof = json.loads(cli.ok("verify", "app", path, "--proof"))
    assert proof["merkle_root"] == root
    assert proven(proof, root)
    assert proof["line"].split(" ")[0] == proof["path"]
    assert proof["line"].isprintable()
    if "target" in proof:
        assert path == "/z-link"
        assert proven(proof["target"], root)
        assert proof["target"]["line"].startswith("/dir/1 500 ")


def test_no_other_line_is_proven(cli: Command, root: str) -> None:
    proof = json.loads(cli.ok("verify", "app", "dir/3", "--proof"))
    assert not proven({**proof, "line": proof["line"].replace(" 500 ", " 501 ")}, root)
    assert not proven({**proof, "siblings": proof["siblings"][:-1]}, root)
    assert not proven(proof, "0" * 64)


def test_one_path_is_verified(cli: Command, root: str, store_dir: Path) -> None:
    assert "is whole: 6 objects" in cli.ok("verify", "app")
    assert "is whole: 1 objects" in cli.ok("verify", "app", "dir/3")
    assert cli.json("verify", "app", "dir")["objects"] == 5
    name = json.loads(cli.ok("verify", "app", "dir/3", "--proof"))["line"].split(" ")[8]
    damaged = store_dir / "objects" / name
    damaged.chmod(0o600)
    damaged.write_bytes(b"4" * 500)
    assert cli("verify", "app", "dir/2").code == 0
    for path in ("dir/3", "dir", "/"):
        code, _, err = cli("verify", "app", path)
        assert (code, "/dir/3 in commit" in err) == (5, True)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("app", "nothing"), 3),
        (("app", "dir/3/x"), 3),
        (("app", "../etc"), 2),
        (("app", "--proof"), 2),
        (("no", "/"), 3),
    ],
)
def test_what_there_is_not(cli: Command, root: str, args: tuple[str, ...], code: int) -> None:
    result = cli("verify", *args)
    assert result.code == code
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("file", ["image", "commit"])
def test_every_byte_of_a_commit_counts(cli: Command, root: str, store_dir: Path, file: str) -> None:
    commit = cli.json("show", "app")["commit"]["metadata_hash"]
    path = store_dir / "commits" / commit
    if file == "image":
        path = Store.open(store_dir).images.ensure(commit)
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 6)):
        data = bytearray(whole)
        data[position] ^= 0x10
        path.write_bytes(data)
        code, _, err = cli("verify", "app")
        assert (code, err.startswith("error: ")) == (5, True), position
