"""``python3 -m tools.install install|uninstall|deb``: what ``make`` calls, with the system's Python."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.install import installing, running
from tools.install.deb import PYTHONS, build_deb
from tools.install.places import Places
from tools.install.tree import EXTRAS, Builder, builder_for, make_tree, make_working_tree, version_of
from tools.setup.pip import SetupError
from tools.share import CHECKOUT


def main() -> int:
    """The program; the exit status."""
    args = command_line().parse_args()
    os.umask(0o022)
    try:
        if args.what == "install":
            _install(args)
        elif args.what == "deb":
            _deb(args)
        else:
            installing.uninstall(_target(args), _say, force=args.force == "yes")
    except SetupError as exc:
        sys.stderr.write(f"error: {exc}\n" + (f"hint: {exc.hint}\n" if exc.hint else ""))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; what was installed before works as it did\n")
        return 130
    return 0


def command_line() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="tools.install", description=__doc__)
    parser.add_argument("what", choices=["install", "uninstall", "deb"])
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--destdir", default="", help="goes before every path that is written")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"), help="what runs the programs")
    parser.add_argument("--build-python", type=Path, help="has pip and all that the wheel is built with")
    parser.add_argument("--extras", default=EXTRAS, help="of the project, with commas; default: %(default)s")
    parser.add_argument("--hook", default="no", help="yes: have container engines run it")
    parser.add_argument("--force", default="no", help="yes: uninstall although the hook is installed")
    return parser


def _target(args: argparse.Namespace) -> installing.Target:
    prefix = os.path.normpath(args.prefix)
    if not os.path.isabs(prefix):
        raise SetupError(f"PREFIX={args.prefix} is no absolute path", "PREFIX=$HOME/.local, for example")
    if not re.fullmatch(r"(/[\w.+@~-]+)+", prefix):
        raise SetupError(
            f"PREFIX={args.prefix} has what the first line of a program or a unit cannot name",
            "use letters, digits and the characters . + @ ~ _ - for its directories",
        )
    destdir = os.path.abspath(args.destdir) if args.destdir else ""
    return installing.Target(Places(prefix, system=bool(destdir) or os.geteuid() == 0), destdir)


def builder_of(args: argparse.Namespace) -> Builder:
    """What packages are fetched and built with."""
    if args.build_python is None:
        return builder_for(args.python, args.extras)
    return Builder(args.build_python, isolated=False, extras=args.extras)


def _install(args: argparse.Namespace) -> None:
    target = _target(args)
    places = target.places
    _check_python(args.python)
    if args.hook == "yes" and not target.live:
        raise SetupError("HOOK=yes is for this machine, not for DESTDIR", "run 'stratum hook install' there")

    def make(tree: Path, place: str) -> tuple[list[str], Path]:
        _say("fetching Python packages, and building")
        return make_working_tree(tree, place, args.python, builder_of(args))

    installing.install(target, make, _say)
    _say(f"stratum is installed in {target.on_disk(places.tree)}, its programs in {target.on_disk(places.bin)}")
    if not target.live:
        return
    found = shutil.which("stratum")
    if found != f"{places.bin}/stratum":
        _say(f"'stratum' on the PATH is {found or 'not there'}: put {places.bin} before all others on it")
    if not places.system:
        _say("the units are those for users, and mount.stratum is left out, as this is not root")
    if args.hook == "yes":
        subprocess.run([f"{places.bin}/stratum", "hook", "install"], check=True)
    elif places.system and not running.hooks_of(places.tree):
        _say("'stratum hook install' has container engines use it; docs/installing.md says how units are enabled")


def _deb(args: argparse.Namespace) -> None:
    def make(tree: Path, place: str) -> tuple[list[str], Path]:
        _say(f"fetching packages for Python {', '.join(PYTHONS)}, and building")
        return make_tree(tree, place, Path("/usr/bin/python3"), builder_of(args), PYTHONS)

    with tempfile.TemporaryDirectory(prefix="stratum-deb-", dir="/var/tmp") as work:
        print(build_deb(CHECKOUT / "dist", Path(work), make))


def _check_python(python: Path) -> None:
    """That the interpreter is one that stays: a link to it is what runs, also as root for every container."""
    version_of(python)
    real = python.resolve()
    ask = [str(python), "-I", "-c", "import sys; print(sys.prefix == sys.base_prefix)"]
    if subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() != "True":
        raise SetupError(f"{python} is of a virtual environment, which may go", "PYTHON=/usr/bin/python3")
    if os.geteuid() == 0 and any(str(real).startswith(f"{home}/") for home in ("/home", "/root")):
        raise SetupError(f"{python} is {real}, below the home of a user", "PYTHON=/usr/bin/python3, the system's")


def _say(text: str) -> None:
    sys.stderr.write(f"install: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
