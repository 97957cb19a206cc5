"""Where the program is that engines start for every container: who else could change it, and how long it stays.

Whoever can write the interpreter, Python's or Stratum's modules, or a directory on the way to them, is root on the host
(or the user whose containers they are) with the next container. And a checkout of the source is moved, cleaned or
deleted one day, after which containers start without their volumes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.frozen import frozen
from stratum.podman.places import trusted_owners
from stratum.sys.smallfile import who_can_change
from stratum.sys.userns import owns_system

_ASK = """
import json, os, sys
own = list(sys.path)
import site
site.main()
import stratum.hook.main
package = os.path.dirname(os.path.abspath(stratum.__file__))
print(json.dumps([package, [sys.prefix, sys.base_prefix, *own], [path for path in sys.path if path not in own]]))
"""

_AS_ROOT = ", as 'make install' does"


@frozen
class Placement:
    """``risk`` says how others could have root run what they like, ``checkout`` names the checkout it is in, if any."""

    risk: str | None
    checkout: str | None


def placement_of(interpreter: str, environment: dict[str, str]) -> Placement:
    """Where the hook that ``interpreter`` starts is. It is not started where others could have changed it.

    Raises ``UnsupportedError`` where it does not know Stratum.
    """
    owners = trusted_owners()
    folder = os.path.dirname(interpreter)
    for place in (interpreter, f"{folder}/pyvenv.cfg", f"{os.path.dirname(folder)}/pyvenv.cfg"):
        risk = who_can_change(place, owners)
        if risk is not None:
            return Placement(risk, None)
    package, own, added = _places(interpreter, environment)
    others = [*own, *added]
    starts = [str(file) for place in others for file in Path(place).glob("*.pth")]
    for place in [package, *others, *starts]:
        risk = risk or who_can_change(place, owners)
    for folder, folders, files in os.walk(package):
        for name in folders + files:
            risk = risk or _who_can_change_here(folder, name, owners)
    checkouts = [_checkout_of(place) for place in (interpreter, os.path.realpath(interpreter), package)]
    return Placement(risk, next((found for found in checkouts if found is not None), None))


def _who_can_change_here(folder: str, name: str, owners: frozenset[int]) -> str | None:
    """As ``who_can_change``, for what is in a folder that was looked at already."""
    path = os.path.join(folder, name)
    status = os.lstat(path)
    if os.path.islink(path):
        return who_can_change(path, owners)
    if status.st_uid not in owners:
        return f"{path} belongs to user {status.st_uid}"
    return f"{path} can be written by others" if status.st_mode & 0o022 else None


def refusal(interpreter: str, risk: str) -> UnsupportedError:
    """That the hook is not installed, or should not be, where it is."""
    who, only = ("root", "root") if owns_system() else ("Podman", "you")
    return UnsupportedError(
        f"{who} would run {interpreter} for every container, and others could change what that does: {risk}",
        hint=f"install Stratum where only {only} can write{_AS_ROOT if only == 'root' else ''}, "
        "and run 'hook install' from there",
    )


def module_path(interpreter: str, environment: dict[str, str]) -> list[str]:
    """Where the hook's modules are besides those of Python. Raises ``UnsupportedError`` as ``placement_of``."""
    package, _, added = _places(interpreter, environment)
    found = [path for path in added if os.path.isabs(path)]
    parent = os.path.dirname(package)
    return found if parent in found else [*found, parent]


def _places(interpreter: str, environment: dict[str, str]) -> tuple[str, list[str], list[str]]:
    """The package's directory, where the interpreter and its own modules are, and where it looks for others."""
    try:
        done = subprocess.run(
            [interpreter, "-I", "-S", "-c", _ASK],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as exc:
        raise UnsupportedError(
            f"cannot run {interpreter}: {os_error_text(exc)}", hint="run: stratum hook install"
        ) from None
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise UnsupportedError(
            f"{interpreter} -I cannot load stratum: {last}",
            hint="install Stratum into this interpreter or a virtual environment; PYTHONPATH does not reach a hook",
        )
    try:
        package, own, added = json.loads(done.stdout)
        return str(package), list(filter(None, own)), list(filter(None, added))
    except (ValueError, TypeError) as exc:
        raise StratumError(f"{interpreter} does not say where its modules are: {exc}") from None


def _checkout_of(path: str) -> str | None:
    """The work tree of git that ``path`` is in, or None."""
    return next((str(parent) for parent in Path(path).parents if (parent / ".git").exists()), None)
