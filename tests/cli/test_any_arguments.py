"""Whatever the arguments are, a verb ends with a documented exit code and says one error, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratum.errors import EXIT_CODES
from tests.cli.trees import make_tree
from tests.support.command import Result
from tests.support.commandline import leaves
from tests.support.effort import examples
from tests.support.inprocess import stratum
from tests.support.leftovers import unmount_below

pytestmark = pytest.mark.root

NEVER = {
    "run",
    "serve",
    "sync",
    "volume-plugin",
    "watch",
    "hydrate",
    "hook install",
    "hook uninstall",
    "completion",
    "shell",
    "unshare",
}
"""They go on until stopped, change the machine, or run what they are given."""
READ_ALL = {"c4 diff", "c4 export", "c4 id", "c4 verify"}
"""They read a directory whole, and the root of this machine is one."""
COMMANDS = {" ".join(words): command for words, command in leaves() if " ".join(words) not in NEVER}
POOL = [
    *(
        "",
        "-",
        "--",
        "..",
        "/",
        "~",
        "+",
        ":/",
        ":::",
        "x" * 5000,
        "é",
        "\udcff\udcfe",
        "\x1b[31m",
        "a b",
        "''",
        "$(id)",
    ),
    *("app", "app:v1", "app+dev", "app+", "app:v1:", "app:/", "app:v1:/a\n", "APP:v1", "nope"),
    *("app@{", "app@{yesterday}", "app@1", "app~", "app~99999999999999", "app^^^"),
    *("127.0.0.1:1/x", "oci:", "oci:nothing", "file", "./file", "1e999", "-1", "0", "9" * 30),
]


@pytest.fixture(scope="module", autouse=True)
def somewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store with ``app``, in a working directory with a file; none of it is relied upon."""
    directory = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch, open(os.devnull, encoding="utf-8") as nothing:
        patch.setenv("STRATUM_STORE", str(directory / "store"))
        patch.setenv("STRATUM_RUNTIME_DIR", str(directory / "run"))
        patch.setenv("REGISTRY_AUTH_FILE", str(directory / "auth.json"))
        patch.setattr(sys, "stdin", nothing)
        source = make_tree(directory / "src", {"a": "1", "d/b": "2"})
        for args in (
            ("import", source, "app:v1"),
            ("tag", "app:v1", "latest"),
            ("worktree", "add", "app+dev", "app:v1"),
        ):
            assert stratum(*args).code == 0
        (directory / "here").mkdir()
        (directory / "here/file").write_text("x")
        patch.chdir(directory / "here")
        yield
        unmount_below(directory)
        stratum("watch", "--stop")  # a history that was turned on; without one it says so


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A verb with options and arguments."""
    words = draw(st.sampled_from(sorted(COMMANDS)))
    options = [param for param in COMMANDS[words].params if isinstance(param, click.Option)]
    given_words = draw(
        st.lists(st.sampled_from([word for word in POOL if words not in READ_ALL or word != "/"]), max_size=3)
    )
    if draw(st.booleans()):
        option = draw(st.sampled_from(options))
        given_words += [option.opts[0]] if option.is_flag else [option.opts[0], draw(st.sampled_from(POOL))]
    return [*words.split(), *given_words]


@settings(max_examples=examples(400), suppress_health_check=[HealthCheck.too_slow])
@given(lines())
def test_any_arguments(line: list[str]) -> None:
    done: Result = stratum(*line)
    assert done.code in EXIT_CODES
    told = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    assert len(told) == (done.code != 0)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_all_verbs_are_looked_at() -> None:
    assert {name for name in NEVER if " " not in name} <= {" ".join(words) for words, _ in leaves()}
    assert len(COMMANDS) > 40
    assert Path("file").exists()
