"""The usual lines that are read without click: as click reads them, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratum.cli import everyday, group, usual
from stratum.cli.context import App

Called = tuple[object, ...]

USUAL = [
    "mount app+dev",
    "mount app:v1 /mnt/a --read-only",
    "--store /s --runtime-dir=/r mount -q app",
    "--format json mount --format text app",
    "unmount /mnt/a",
    "umount app+dev --quiet",
    "-q --format=json unmount .",
    "commit app+dev",
    "commit app+dev v2 -f -m text",
    "commit --message=two-words=text --no-pause --force app v2 --format json",
    "status",
    "--store=/s status app+dev --format=json",
]

UNUSUAL = [
    "",
    "-q",
    "--help",
    "mount",
    "mount --help",
    "mount a b c",
    "mount --read-only",
    "mount -- a",
    "mount -q -q a",
    "mount a --store /s",
    "mount --read-only=yes a",
    "commit -fq a",
    "commit -mtext a",
    "commit -m=text a",
    "commit -m -x a",
    "commit a -m",
    "commit a -m é",
    "status --format xml",
    "status a b",
    "--stor /s status",
    "stat",
    "list",
]

VERBS = ["mount", "unmount", "umount", "commit", "status", "list"]
WORDS = [
    *("a", "app+dev", "/mnt", "x=y", "-", "--", "--help", "-h", "--format=xml", "--quiet=1", "-m=x", "-fq", "-mx"),
    *("--store", "--store=", "--format", "-m", "--message", "--read", "", "é", "\n"),
    *("a b", "--store /s", "--store=/s", "--runtime-dir /r", "--runtime-dir=/r", "--format json", "--format=text"),
    *("-q", "--quiet", "--read-only", "-f", "--force", "--no-pause", "-m x", "--message=x", "--message x=y"),
]
PIECES = st.lists(st.sampled_from(WORDS), max_size=3)
LINES = st.tuples(PIECES, st.sampled_from(VERBS).map(lambda verb: [verb]), PIECES).map(
    lambda parts: [word for part in parts for piece in part for word in piece.split(" ")]
)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Called]:
    """The calls of the verbs from here on, with all that they were given."""
    calls: list[Called] = []

    def record(verb: str) -> None:
        def call(app: App, **parameters: object) -> None:
            config = app.session.config
            calls.append((verb, config.store, config.runtime_dir, app.out.format, app.out.quiet, parameters))

        monkeypatch.setattr(everyday, verb, call)

    for verb in ("mount", "unmount", "commit", "status"):
        record(verb)
    return calls


def check(args: list[str], called: list[Called]) -> bool:
    """Whether ``args`` are read without click, which must then have read the same."""
    call = usual.read(args)
    if call is None:
        return False
    called.clear()
    call.run()
    group.invoke(args, as_json=False)
    assert len(called) == 2
    assert called[0] == called[1]
    return True


@pytest.mark.parametrize("line", USUAL)
def test_usual_lines_are_read(line: str, called: list[Called]) -> None:
    assert check(line.split(), called)


@pytest.mark.parametrize("line", UNUSUAL)
def test_whatever_is_unusual_is_clicks(line: str) -> None:
    assert usual.read(line.split(" ") if line else []) is None


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=LINES)
def test_no_line_is_read_in_two_ways(args: list[str], called: list[Called]) -> None:
    check(args, called)


def test_every_option_of_these_verbs_is_usual() -> None:
    """An option that a verb gets later is listed here too, or the line it stands in takes longer for no reason."""
    context = group.cli.make_context("stratum", ["status"])
    for verb in ("mount", "unmount", "umount", "commit", "status"):
        command = group.cli.get_command(context, verb)
        assert command is not None
        for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
            for spelling in option.opts:
                value = [] if option.is_flag else ["json"]
                assert usual.read([verb, spelling, *value, "x"]) is not None, (verb, spelling)
