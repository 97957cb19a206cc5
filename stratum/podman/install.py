"""Putting the hook where container engines find it: two JSON files, one for each stage.

The format is hooks.d(5) "1.0.0", as Podman and CRI-O read it. The files say absolutely which interpreter runs
what, with which environment, and for how long, because nothing else of the caller's surroundings reaches a hook.

Root's are for the whole machine, a user's for that user's Podman (``podman.places``). CRI-O reads root's directory by
itself. Podman does only where its ``hooks_dir`` says so (Debian 12's does not), and never a user's; where it does not,
a file in containers.conf.d adds the directory to those that Podman reads.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stratum import toml
from stratum.config import Config, load_config
from stratum.errors import ConflictError, NotFoundError, StratumError, UnsupportedError, os_error_text
from stratum.podman import TIMEOUTS
from stratum.podman.placement import module_path, placement_of, refusal
from stratum.podman.places import Places, places_for, trusted_owners
from stratum.podman.program import USERS, hook_directories
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import who_can_change

HOOK_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

WHEN = {"annotations": {r"^stratum\.dev/": ".*"}}
"""Every annotation of ours, so that a misspelt one stops the container instead of starting it without its volume."""
_MODULE = "stratum.hook"
_PROGRAM = "import sys; sys.path += {paths!r}; from stratum.hook.main import run; run()"
_SETTINGS_MARK = "# Written by 'stratum hook install'; 'stratum hook uninstall' removes it.\n"


def install(
    directory: Path | None,
    config: Config,
    *,
    force: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write the hook's JSON files to ``directory`` (default: where ``places_for`` says) and return their paths.

    The settings of ``config`` that are not what the hook would find by itself go into the files, and a user's all: the
    hook is started in Podman's user namespace, with nothing that says whose it is. A second call
    replaces the first's files. Where Podman does not read the default directory it is made to, which is one path more;
    a directory of one's own is for ``podman --hooks-dir``.

    Raises ``ConflictError`` for a file of that name which is not ours, ``UnsupportedError`` where this interpreter
    cannot run the hook on its own or (unless ``force``) others than root could change what it runs, ``StratumError``
    where the directory cannot be written. ``warn`` is told of an interpreter in a checkout.
    """
    places = places_for(config.environment)
    target = _directory(directory, places)
    interpreter = _interpreter()
    _check_placement(interpreter, target, force, warn)
    environment, paths = _environment(config, places), module_path(interpreter, {"PATH": HOOK_PATH})
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in hook_files(target).values():
            is_ours(path)
        for stage, path in hook_files(target).items():
            text = json.dumps(hook_json(stage, interpreter, paths, environment), indent=2) + "\n"
            write_atomic(path, text.encode("utf-8"))
        written = list(hook_files(target).values())
        return written + _make_podman_look(places, config) if directory is None else written
    except OSError as exc:
        raise StratumError(f"cannot install the hook in {target}: {os_error_text(exc)}") from None


def _check_placement(interpreter: str, target: Path, force: bool, warn: Callable[[str], None]) -> None:
    found = placement_of(interpreter, {"PATH": HOOK_PATH})
    risk = found.risk or who_can_change(str(target), trusted_owners())
    if risk is not None:
        if not force:
            raise refusal(interpreter, risk)
        warn(refusal(interpreter, risk).message)
    if found.checkout is not None:
        warn(
            f"the hook is started from the checkout {found.checkout}: when that is moved or deleted, or set up anew, "
            "containers start without their volumes until 'hook install' is run again"
        )


def uninstall(directory: Path | None, config: Config) -> list[Path]:
    """Remove what ``install`` wrote to ``directory``, and nothing else; the paths removed, none where none was there.

    Raises ``ConflictError`` for a file of that name which is not ours, ``NotFoundError`` for a missing directory.
    """
    places = places_for(config.environment)
    target = _directory(directory, places)
    if directory is not None and not target.is_dir():
        raise NotFoundError(f"there is no directory {target}")
    removed = []
    try:
        present = [path for path in hook_files(target).values() if is_ours(path)]
        if directory is None and _is_our_settings(places.settings):
            present.append(places.settings)
        for path in present:
            path.unlink(missing_ok=True)
            removed.append(path)
    except OSError as exc:
        raise StratumError(f"cannot remove the hook from {target}: {os_error_text(exc)}") from None
    return removed


def hook_json(stage: str, interpreter: str, paths: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The hook definition of ``stage`` as hooks.d(5) has it. ``paths`` are where modules are that are not Python's:
    that the interpreter looks for such places itself takes as long as a mount."""
    return {
        "version": "1.0.0",
        "hook": {
            "path": interpreter,
            "args": [interpreter, "-I", "-S", "-c", _PROGRAM.format(paths=paths), stage],
            "env": [f"{key}={value}" for key, value in environment.items()],
            "timeout": TIMEOUTS[stage],
        },
        "when": WHEN,
        "stages": [stage],
    }


def _make_podman_look(places: Places, config: Config) -> list[Path]:
    """Add the directory of ``places`` to what Podman reads, where it is not; the paths written."""
    settings = places.settings
    directories = hook_directories(config.environment)
    if directories is None or places.hooks in directories:
        return [settings] if _is_our_settings(settings) else []
    wanted = [str(path) for path in [*directories, places.hooks]]
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(settings, (_SETTINGS_MARK + toml.dumps({"engine": {"hooks_dir": wanted}})).encode("utf-8"))
    if places.hooks not in (hook_directories(config.environment) or []):
        settings.unlink()
        raise UnsupportedError(
            f"Podman does not read hooks from {places.hooks}, and another file overrides {settings}",
            hint=f"add {places.hooks} to hooks_dir in containers.conf, or use podman --hooks-dir",
        )
    return [settings]


def _is_our_settings(settings: Path) -> bool:
    try:
        return settings.read_bytes().startswith(_SETTINGS_MARK.encode())
    except FileNotFoundError:
        return False


def hook_files(directory: Path) -> dict[str, Path]:
    """The hook's files in ``directory``, by stage."""
    return {stage: directory / f"stratum-{stage.lower()}.json" for stage in TIMEOUTS}


def _directory(directory: Path | None, places: Places) -> Path:
    return places.hooks if directory is None else Path(os.path.abspath(directory))


def is_ours(path: Path) -> bool:
    """Whether our file is at ``path`` and not none; ``ConflictError`` where it is somebody else's."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    try:
        ours = any(_MODULE in argument for argument in json.loads(data)["hook"]["args"])
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ConflictError(
            f"{path} was not written by 'stratum hook install'",
            hint=f"look at it, then: mv {path} {path}.old; and the same again",
        )
    return True


def _interpreter() -> str:
    """This interpreter; that it finds the hook with nothing but its own installation to look in is seen by asking."""
    interpreter = sys.executable
    if not os.path.isabs(interpreter or ""):
        raise UnsupportedError("this Python does not know the path of its own interpreter")
    return interpreter


def _environment(config: Config, places: Places) -> dict[str, str]:
    """The environment for the hook: it replaces the engine's, so that both stages see the same one."""
    environment = {"PATH": HOOK_PATH}
    where = {"STRATUM_STORE": str(config.store), "STRATUM_RUNTIME_DIR": str(config.runtime_dir)}
    if places.system:
        own = load_config({})
        found = {"STRATUM_STORE": str(own.store), "STRATUM_RUNTIME_DIR": str(own.runtime_dir)}
        return environment | {name: value for name, value in where.items() if value != found[name]}
    users = {name: config.environment[name] for name in USERS if config.environment.get(name)}
    return environment | where | users
