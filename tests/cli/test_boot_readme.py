"""What the documents say about reboots, as they say it: the units, the link for fstab, the originals of a migration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.trees import make_tree
from tests.support.capabilities import program
from tests.support.command import SCRIPT, Command

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).parents[2]


def blocks(readme: Path, heading: str) -> list[str]:
    """The indented blocks of a README's section."""
    section = f"\n{readme.read_text('utf-8')}".partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    found: list[list[str]] = [[]]
    for line in section.splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def commands(block: str) -> list[str]:
    return [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]


def run(script: str, cli: Command, path: str = "") -> str:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script],
        env=cli.environment | {"PATH": f"{path}:{SCRIPT.parent}:{os.environ['PATH']}"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_units_are_installed_from_a_checkout(cli: Command, tmp_path: Path) -> None:
    (block,) = blocks(CHECKOUT / "oci-hooks/README.md", "## At boot")
    (tmp_path / "units").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    (tmp_path / "bin/systemctl").chmod(0o755)
    run(f"mount --bind {tmp_path}/units /etc/systemd/system\n{block}", cli, path=str(tmp_path / "bin"))
    units = sorted((tmp_path / "units").glob("*.service"))
    assert {unit.stem for unit in units} == {path.stem for path in (CHECKOUT / "oci-hooks").glob("*.service")}
    for unit in units:
        started = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        assert os.path.realpath(SCRIPT) in started
        checked = subprocess.run(
            [program("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True, check=False
        )
        assert unit.name not in checked.stderr, checked.stderr
    assert "enable stratum-reconcile stratum-mounts" in (tmp_path / "asked").read_text()


def test_what_the_readme_says_about_reboots(cli: Command, tmp_path: Path) -> None:
    persist, fstab, migrate, originals, moved = blocks(CHECKOUT / "docs/boot.md", "# After a reboot")
    make_tree(tmp_path / "srv/db", {"f": "original", "sub/g": "deep"})
    make_tree(tmp_path / "src", {"file": "1"})
    (tmp_path / "srv/dev").mkdir()
    (tmp_path / "fstab").touch()
    cli.ok("import", "--bare", tmp_path / "src", "myapp")
    cli.ok("worktree", "add", "myapp+dev")
    sbin = tmp_path / "sbin"
    for name in ("upper", "work"):
        (sbin / name).mkdir(parents=True)
    begin = (
        f"mount -t overlay -o lowerdir=/usr/sbin,upperdir={sbin}/upper,workdir={sbin}/work overlay /usr/sbin\n"
        f"mount --bind {tmp_path}/fstab /etc/fstab\n"
    )

    def placed(lines: list[str]) -> str:
        # The text after two spaces says what a command is for.
        said = [line.partition("     ")[0].rstrip().replace("/srv/", f"{tmp_path}/srv/") for line in lines]
        return "\n".join(said)

    run(f"{placed(commands(persist))}\n! test -e {tmp_path}/srv/dev/file", cli)
    assert list((cli.store / "mounts").iterdir()) == []
    shown = run(f"{begin}{placed(commands(fstab))}\ncat {tmp_path}/srv/dev/file; umount {tmp_path}/srv/dev", cli)
    assert shown.endswith("1")
    below = placed(commands(migrate)).replace(f"--originals {tmp_path}/srv/db.before ", "")
    look, move = commands(originals)
    seen = run(
        f"{below}; {placed([look])}; mkdir {tmp_path}/srv/db.before; {placed([move])}; cat {tmp_path}/srv/db/f", cli
    )
    assert " sub\n" in seen
    assert seen.endswith("original")
    assert (tmp_path / "srv/db.before/sub/g").read_text() == "deep"
    assert list((tmp_path / "srv/db").iterdir()) == []

    make_tree(tmp_path / "srv/app", {"f": "moved"})
    (move,) = commands(moved)
    assert run(f"{placed([move.replace('db', 'app')])}; cat {tmp_path}/srv/app/f", cli).endswith("moved")
    assert list((tmp_path / "srv/app").iterdir()) == []
