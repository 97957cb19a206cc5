"""What verbs print with --format json is as docs/schemas says: each verb, on one store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from stratum.cli.main import cli as root_command
from stratum.peers.cards import Card
from stratum.peers.keys import certificate_in, make_key_file
from tests.cli.trees import BIG, make_tree
from tests.support import hydrating
from tests.support.command import Command
from tests.support.leftovers import unmount_below
from tests.support.schemas import of_command, problems, schemas, validator
from tools.manpages import commands

WITHOUT_JSON = {"completion", "help", "hydrate", "run", "serve", "shell", "unshare", "volume-plugin"}
"""They print text for a shell or a person, or are there to run something."""
ELSEWHERE = {"login", "logout", "ps", "reconcile", "realize", "sync", "unrealize"}
"""They need a registry, peers or containers to have something to say: the tests of those check what they print."""

Document = tuple[list[str], Any]


def script(work: Path) -> Iterator[list[str | Path]]:
    """Command lines, one after the other, and what changes between them."""
    app, layout, mnt = work / "app", f"oci:{work}/layout", work / "mnt"
    make_tree(app, {"file": "1", "big": BIG, "sub/deep": "d"})
    (app / "link").symlink_to("file")
    os.link(app / "file", app / "second")
    yield ["import", "--bare", app, "app:v1"]
    yield ["init", "empty", work / "empty"]
    make_tree(work / "old", {"f": "1"})
    yield ["init", "--migrate", "old", work / "old", "--originals", work / "originals"]
    yield ["worktree", "add", "app+dev", "app:v1"]
    yield ["worktree", "add", "app+two", "app:v1"]
    yield ["mount", "app+dev", mnt]
    yield ["mount", "--persist", "app+dev", mnt]
    yield ["mount", "app:v1", work / "tag"]
    yield ["mount", "--all"]
    yield ["history", "on", "app+dev", "--exclude", "*/cache"]
    (mnt / "file").write_text("2")
    (mnt / "big").unlink()
    (mnt / "sub/new").write_text("n" * 300)
    yield ["watch", "--once"]
    yield ["history", "app+dev"]
    yield ["status"]
    yield ["status", "app+dev"]
    yield ["status", "--short", mnt]
    yield ["status", "--short", work]
    yield ["diff", "app+dev"]
    yield ["diff", "-p", "app:v1", "app+dev"]
    yield ["diff", "--stat", "app:v1", "app+dev"]
    yield ["commit", "app+dev", "v2", "-m", "second"]
    yield ["commit", "app+dev"]
    yield ["tag", "app:v2", "copy"]
    yield ["tag", "--pin", "app:v2"]
    yield ["tag", "app:copy", "moved", "--move"]
    yield ["list"]
    yield ["list", "app"]
    yield ["worktree", "list"]
    yield ["show", "app:v2"]
    yield ["show", "app:v1", "/"]
    yield ["show", "app:v1", "/file"]
    yield ["cat", "app:v1", "/big"]
    yield ["ls"]
    yield ["ls", "-R", "app:v1"]
    yield ["find", "app+dev:/sub", "d*"]
    yield ["find", "--history", "app:v2", "big"]
    yield ["log", "app+dev"]
    yield ["log", "app+dev", "/file"]
    yield ["log", "--reflog", "app"]
    yield ["verify", "app:v1"]
    yield ["verify", "--proof", "app:v1", "second"]
    yield ["worktree", "switch", "app+two", mnt]
    yield ["worktree", "switch", "app+dev", mnt]
    yield ["reset", "app+two", "app:v2"]
    yield ["rebase", "app+two", "app:v1"]
    (mnt / "file").write_text("3")
    make_tree(app, {"file": "4"})
    yield ["import", "--bare", app, "app:v3"]
    yield ["rebase", "app+dev", "app:v3"]
    (work / "out").mkdir()
    yield ["restore", "app:v1", "big", "--to", work / "out"]
    yield ["restore", "app:v1", "big", "--to", "-"]
    yield ["restore", "app:v1", "big", "--to", "app+dev"]
    (work / "set.toml").write_text('[patchset]\nbase = "app:v1"\npatches = ["app:v2", "app:v3"]\n')
    for how in ((), ("--stat",), ("--conflicts",)):
        yield ["patchset", "show", *how, work / "set.toml"]
    yield ["patchset", "build", work / "set.toml", "app:merged"]
    yield ["push", "-n", "app:v2", f"{layout}:v2"]
    yield ["push", "app:v2", f"{layout}:v2"]
    yield ["list", "--remote", layout]
    yield ["pull", f"{layout}:v2", "pulled"]
    yield ["export", "app:v2", work / "v2.stratum.tar", "--with-history"]
    yield ["import", work / "v2.stratum.tar", "imported"]
    yield ["c4", "id", "app:v2", app, "app:v2:/file"]
    yield ["c4", "export", "app:v2", work / "v2.c4m", "--store", work / "contents"]
    yield ["c4", "import", work / "v2.c4m", "app:again", "--store", work / "contents"]
    yield ["c4", "diff", "app:v1", work / "v2.c4m"]
    yield ["c4", "patch", work / "v2.c4m"]
    yield ["c4", "verify", work / "v2.c4m", "app:again"]
    yield ["c4", "verify", work / "v2.c4m", "app:v1"]
    yield ["peer", "id", "--name", "attic"]
    yield ["peer", "add", "laptop", str(Card("laptop", certificate_in(make_key_file(), "a file"))), "laptop:5443"]
    yield ["share", "app", "--with", "laptop", "--write"]
    yield ["peer", "list"]
    yield ["merge", "app"]
    yield ["peer", "remove", "laptop"]
    yield ["du", "--commits", "--worktrees"]
    yield ["remove", "-n", "app:v3"]
    yield ["cache", "status", "--who"]
    yield ["cache", "limit", "--max", "10G"]
    yield ["cache", "evict", "-n"]
    yield ["hook", "install", "--force", work / "hooks"]
    yield ["hook", "doctor", work / "hooks"]
    yield ["hook", "uninstall", work / "hooks"]
    yield ["history", "off", "app+dev"]
    yield ["unmount", "--forget", mnt]
    yield ["worktree", "remove", "app+two"]
    yield ["remove", "-n", "imported"]
    yield ["remove", "--yes", "imported"]
    yield ["du"]
    yield ["du", "app", "app:v1", "app+dev"]
    yield ["du", "--commits", "--worktrees"]
    yield ["gc", "-n", "--keep-last", "1", "--tags", "v*"]
    yield ["gc", "--reflog-age", "0s"]
    yield ["fsck"]
    yield ["info"]
    yield ["version"]
    yield ["metrics"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Document]]:
    work = tmp_path_factory.mktemp("schemas")
    (work / "run").mkdir(mode=0o700)
    cli = Command(work / "store", work / "run")
    found: list[Document] = []
    try:
        for line in script(work):
            words = list(map(str, line))
            done = cli("--format", "json", *words)
            assert done.stdout, (words, done)
            found.append((words, json.loads(done.stdout)))
        yield found
    finally:
        unmount_below(work)
        hydrating.stop(work / "run")


@pytest.mark.root
def test_each_verb_prints_what_its_schema_says(documents: list[Document]) -> None:
    wrong = {
        " ".join(words): found for words, document in documents if (found := problems(of_command(words), document))
    }
    assert not wrong


@pytest.mark.root
def test_each_schema_is_of_a_verb_and_each_verb_has_one(documents: list[Document]) -> None:
    verbs = {"-".join(names[1:]) for names, command in commands(root_command) if _does_something(command)}
    assert set(schemas()) - {"common", "error"} == verbs - WITHOUT_JSON
    assert {of_command(words) for words, _ in documents} == verbs - WITHOUT_JSON - ELSEWHERE


def _does_something(command: click.Command) -> bool:
    return not isinstance(command, click.Group) or any(param.name == "output_format" for param in command.params[4:])


@pytest.mark.root
def test_an_error_is_as_its_schema_says(cli: Command) -> None:
    for words in (["show", "nothing"], ["show"], ["no-such-verb"], []):
        done = cli("--format", "json", *words)
        assert problems("error", json.loads(done.stderr)) == []


def test_schemas_are_schemas_and_strict() -> None:
    for name, schema in schemas().items():
        validator(name).check_schema(schema)
        assert schema["$id"] == f"https://stratum.dev/schemas/{name}.json"
        for table in _objects(schema):
            if "properties" in table:
                assert table["additionalProperties"] is False
                assert set(table["required"]) <= set(table["properties"])


def _objects(schema: object) -> Iterator[dict[str, Any]]:
    """Every part of a schema that is for objects."""
    if isinstance(schema, dict):
        if schema.get("type") in ("object", ["object", "null"]):
            yield schema
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value)
