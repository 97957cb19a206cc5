"""The reference in docs/reference is made of what the code says of itself."""

from __future__ import annotations

from stratum.cli.main import cli
from stratum.config import SETTINGS
from tools.manpages import commands
from tools.picture import picture
from tools.reference import CHECKOUT, config, exit_codes, pages, plain, prose, verbs


def test_the_pages_are_those_of_the_code() -> None:
    old = [path.name for path, text in pages().items() if path.read_text("utf-8") != text]
    assert not old, "'make docs' writes them anew"
    assert (CHECKOUT / "docs/how-it-works.svg").read_text("utf-8") == picture(), "tools/picture.py writes it anew"


def test_every_command_and_option_is_in_it() -> None:
    text = verbs()
    for names, command in commands(cli):
        assert len(names) == 1 or f"# {' '.join(names)}\n" in text
        for param in command.params:
            if param.param_type_name == "option" and not getattr(param, "hidden", False):
                assert param.opts[-1] in text, names


def test_every_setting_and_error_is_in_it() -> None:
    assert all(f"| `{setting.key}` |" in config() for setting in SETTINGS)
    assert "| `rebase-conflict` | 4 |" in exit_codes()


def test_text_is_shown_as_it_stands() -> None:
    assert plain("a|b  *c*\n<d> _e_ ``f|g``") == r"a\|b \*c\* \<d\> \_e\_ `f\|g`"
    assert prose("a *b*\n\n\b\n  [c]\n  d\n\n    set in") == "a \\*b\\*\n\n    [c]\n    d\n\n    set in"
