"""``help`` and ``completion``."""

from __future__ import annotations

import click

from stratum.cli.app import App, verb
from stratum.cli.output import write_stdout
from stratum.errors import UsageError

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
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""Readline takes the ':' of a ref for the end of a word: the words are put together again as they stand in the line,
and of a completion only what comes after that end goes back."""


@verb(
    "help",
    examples=[
        ("Of a verb", "stratum help commit"),
        ("Of a verb's verb", "stratum help worktree add"),
    ],
)
@click.argument("words", metavar="[VERB]...", nargs=-1)
def help_(app: App, words: tuple[str, ...]) -> None:
    """Show the help of a verb."""
    context = click.get_current_context().find_root()
    command: click.Command = context.command
    for word in words:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            raise UsageError(f"there is no verb {word!a}", hint="'stratum help' lists the verbs")
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
    write_stdout(template % instance.source_vars())
