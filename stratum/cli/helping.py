"""``help`` and ``completion``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, verb
from stratum.cli.output import write_stdout
from stratum.cli.verbs import LISTED, TOPICS, VERBS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")

_BASH = r"""%(complete_func)s() {
    local IFS=$'\n' line=$COMP_LINE word gap prefix type value i
    local -a words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        gap=${line%%%%"$word"*}
        line=${line#*"$word"}
        if [[ $i == 0 || -z $word || -n $gap ]]; then
            words+=("$word")
        else
            words[-1]+=$word
        fi
    done
    word=${COMP_WORDS[COMP_CWORD]}
    prefix=${words[-1]}
    [[ $word == [:=@] ]] || prefix=${prefix%%"$word"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                value=${value#"$prefix"}
                [[ -z $value ]] || printf -v value %%q "$value"
                COMPREPLY+=("$value")
                ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1")
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != */ ]] || compopt -o nospace
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""Readline takes the ':' of a ref for the end of a word: the words are put together again as they stand in the line,
and of a completion only what comes after that end goes back, as it has to be quoted. After a directory no space."""


class _WordsType(click.ParamType[str]):
    """A verb, a topic, and after a verb its verbs."""

    name = "verb"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        root = ctx.find_root()
        command: click.Command = root.command
        for word in ctx.params.get(param.name or "") or ():
            found = command.get_command(root, word) if isinstance(command, click.Group) else None
            if found is None:
                return []
            command = found
        if command is root.command:
            known = {**{name: VERBS[name][1] for name in LISTED}, **TOPICS}
        else:
            below = command.commands if isinstance(command, click.Group) else {}
            known = {name: each.get_short_help_str() for name, each in below.items()}
        return [CompletionItem(word, help=text) for word, text in known.items() if word.startswith(incomplete)]


@verb(
    "help",
    examples=[
        ("Of a verb", "stratum help commit"),
        ("Of a verb's verb", "stratum help worktree add"),
        ("How commits are named", "stratum help refs"),
    ],
)
@click.argument("words", metavar="[VERB]... | [TOPIC]", nargs=-1, type=_WordsType())
def help_(app: App, words: tuple[str, ...]) -> None:
    """Show the help of a verb, or of a topic: refs, config, environment, files, exit-codes."""
    context = click.get_current_context().find_root()
    if len(words) == 1 and words[0] in TOPICS:
        from stratum.cli.topics import write

        formatter = context.make_formatter()
        write(words[0], formatter)
        app.out.line(formatter.getvalue().rstrip("\n"))
        return
    command: click.Command = context.command
    for number, word in enumerate(words):
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            from stratum.cli.mistakes import unknown_help

            raise unknown_help(context, words[number:])
        context = click.Context(found, info_name=word, parent=context)
        command = found
    app.out.line(command.get_help(context))


@verb(
    "completion",
    examples=[
        ("For this shell", "source <(stratum completion bash)"),
        ("For fish, for good", "stratum completion fish > ~/.config/fish/completions/stratum.fish"),
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(app: App, shell: str) -> None:
    """Print the completion script of SHELL; refs are completed from the store.

    bash: put 'source <(stratum completion bash)' into ~/.bashrc. zsh: the same in ~/.zshrc. fish: write the output to
    ~/.config/fish/completions/stratum.fish.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root().command
    instance = made(root, {}, "stratum", "_STRATUM_COMPLETE")
    template = _BASH if shell == "bash" else instance.source_template
    # click's script for fish cuts values and their explanations off at a comma
    template = template.replace('string split ","', 'string split --max 1 ","')
    write_stdout(template % instance.source_vars())
