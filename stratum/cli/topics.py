"""What ``stratum help`` tells besides verbs: refs, settings, the environment, files, exit codes. Pure.

The tables are those that the reference in docs/ is made of: each is where what it tells of is decided.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from stratum.config import FILES, SETTINGS, VARIABLES
from stratum.errors import EXIT_CODES

FORMS = {
    "NAME": "The stratum as it is now: its worktree 'main', and as a commit the last one of that; or 'latest'.",
    "NAME:TAG": "What a tag names.",
    "NAME:HASH": "A commit by its hash, or by the first 7 digits or more of it.",
    "NAME+WORKTREE": "A worktree; where a commit is wanted, the last commit of it.",
    "HASH": "A commit, where no stratum has that name.",
    "NAME+WORKTREE@CHANGE": "What the worktree showed after an operation of its history, by the number in 'history'.",
    "REF@{WHEN}": "What a tag or worktree named then: 'db@{yesterday}', 'db:latest@{2 hours ago}'.",
    "REF~N": "The Nth commit before it; REF^ and REF~ are the one before.",
    "REF:/PATH": "A file or directory in any of these, where a verb takes one.",
}
"""Form of a ref -> what it means (``refs.py`` parses it, ``store/resolve.py`` gives it its meaning)."""

NAMES = (
    "A name has up to 128 letters, digits, '.', '_' and '-', and begins with a letter or digit. Where a verb takes a"
    " path too, what has a slash is a path, and so are '.' and '..'."
)


def write(topic: str, formatter: click.HelpFormatter) -> None:
    """Write one of the topics that ``cli/verbs.py`` lists."""
    rows: Iterable[tuple[str, str]]
    if topic == "refs":
        rows, after = FORMS.items(), NAMES
    elif topic == "config":
        rows = [(each.key, f"{each.help} ({each.form}) Default: {each.default}.") for each in SETTINGS]
        after = (
            "They are TOML in /etc/stratum/config.toml. 'stratum help environment' and 'stratum help files' tell more."
        )
    elif topic == "environment":
        rows = [(each.env, f"The setting '{each.key}': {each.help}") for each in SETTINGS] + list(VARIABLES.items())
        after = "A variable wins over the settings file, and an option of the command line over that."
    elif topic == "files":
        rows, after = FILES.items(), ""
    else:
        rows = [(str(code), text) for code, text in EXIT_CODES.items()]
        after = "With --format json an error is one JSON object on standard error, with 'code' and 'id'."
    formatter.write_dl(list(rows))
    if after:
        formatter.write_paragraph()
        formatter.write_text(after)
