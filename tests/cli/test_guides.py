"""The guides in docs/: the sessions in them print what they say, and every other command line is one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support import hydrating
from tests.support.command import SCRIPT, Command
from tests.support.commandline import parse, stratum_calls
from tests.support.rootless import User
from tests.support.transcript import replay

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
BEFORE = {
    "README.md": """
        mount -t tmpfs tmpfs /srv
        mkdir -p /srv/app app/cache app/bin
        printf 'port = 80\nworkers = 4\n' >app/app.conf
        for file in cache/index bin/app; do head -c 40000 /dev/urandom >app/$file; done
    """,
    "c4.md": """
        mkdir -p film/shots
        echo one >film/shots/a1.txt; echo two >film/shots/a10.txt; echo reel >film/notes; ln -s shots/a1.txt film/first
        find film -exec touch -h -d 2026-11-30T08:00:00Z {} +
    """,
    "dotfiles.md": """
        for place in /home /srv; do mount -t tmpfs tmpfs $place; done
        mkdir -p /home/ann/.config/nvim /home/ann/.config/sway && cd /home/ann/.config
        printf 'set number\\nset expandtab\\n' >nvim/init.vim
        printf 'bindsym $mod+Return exec foot\\n' >sway/config
        mkdir -p /srv/wine/drive_c/windows/system32 && cd /srv/wine/drive_c/windows/system32
        for library in kernel32 user32 gdi32; do head -c 700000 /dev/urandom >$library.dll; done
        echo 'WINE REGISTRY Version 2' >/srv/wine/system.reg
        cd /
    """,
    "household.md": """
        for place in /home /srv; do mount -t tmpfs tmpfs $place; done
        export HOME=/home/ann; mkdir -p $HOME/notes /srv/nas /srv/hosts/{attic/photos,nas}; cd $HOME
        echo 'water the plants' >notes/todo.txt; echo 'eggs, flour' >notes/pancakes.txt
        for photo in sea hill; do head -c 3000000 /dev/urandom >/srv/hosts/attic/photos/$photo.jpg; done
        cp /etc/hosts /srv/names; echo '127.77.0.1 attic' >>/srv/names; mount --bind /srv/names /etc/hosts
        ssh() {
            local host=/srv/hosts/$1; shift
            [[ $* != *commit* ]] || sleep 1  # which of two is later is told by seconds
            (cd $host; STRATUM_STORE=$host/store STRATUM_RUNTIME_DIR=$host/run exec bash -ec "$*")
        }
        for host in attic nas; do mkdir /srv/hosts/$host/run; ssh $host stratum peer id -q --name $host; done
        stratum peer id -q --name laptop
        trap 'kill $(cat /srv/hosts/attic/serve.pid) || :' EXIT
    """,
    "mods.md": """
        for place in /home /srv /opt; do mount -t tmpfs tmpfs $place; done
        mkdir -p /home/ann/game /opt/game/data /srv/mods/textures/data quests/data
        head -c 300000 /dev/urandom >/opt/game/game.bin
        for file in intro.mp4 textures.pak world.esm; do head -c 90000 /dev/urandom >/opt/game/data/$file; done
        head -c 90001 /dev/urandom >/srv/mods/textures/data/textures.pak
        touch /srv/mods/textures/data/.wh.intro.mp4
        head -c 40000 /dev/urandom >quests/data/quests.esp
        head -c 90002 /dev/urandom >quests/data/textures.pak
        (cd quests && python3 -m zipfile -c /srv/mods/quests.zip data)
    """,
}
"""Page -> what is there before its session begins."""


@pytest.mark.root
@pytest.mark.parametrize("page", sorted(BEFORE))
def test_the_session_of_a_guide(page: str, cli: Command, tmp_path: Path) -> None:
    environment = {**cli.environment, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"}
    try:
        document = CHECKOUT / page if page == "README.md" else DOCS / page
        assert replay(document, BEFORE[page], environment, tmp_path) == []
    finally:
        hydrating.stop(cli.runtime_dir)


@pytest.mark.root
def test_the_session_of_an_ordinary_user(user: User) -> None:
    before = "mkdir notes; echo milk >notes/list"
    path = f"{SCRIPT.parent}:{user.environment['PATH']}"
    assert replay(DOCS / "rootless.md", before, {"PATH": path}, user.home, user) == []


PAGES = [CHECKOUT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_of_a_page_are_command_lines(page: Path) -> None:
    for line in command_lines(page.read_text("utf-8")):
        for words in stratum_calls(line):
            parse(words)


def command_lines(document: str) -> list[str]:
    """Lines of indented blocks that call stratum, as a shell would take them: without prompts, comments, and what is
    said beside them after three spaces."""
    found = []
    for block in re.findall(r"(?:^    .*\n)+", document, re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            typed = re.sub(r"\s{3,}[^-\s].*$|\s+#\s.*$", "", line[4:].removeprefix("# ").removeprefix("$ "))
            if re.match(r"(\S+=\S+ )*stratum ", typed):
                found.append(typed)
    return found
