"""What goes on while a program is installed, replaced or removed: the hook, services, and processes behind mounts.

Mounts are the kernel's and need no program, but for those of commits that are not here whole: a keeper serves these. It
and the watcher of histories are made to go on with the new code, and give away nothing meanwhile. The hook is what
must not be forgotten: a container engine that finds the hook's files, but not the program that they name, starts
containers on empty directories without a word.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tools.install.places import Places
from tools.setup.pip import SetupError

HOOK_DIRECTORIES = ("/etc/containers/oci/hooks.d", "/usr/share/containers/oci/hooks.d")
SERVICES = {
    "stratum-hydrate.service": "hydrate",
    "stratum-watch.service": "watch",
    "stratum-volume-plugin.service": None,
    "stratum-serve.service": None,
}
"""What runs all the time -> the verb whose ``--restart-worker`` has new code take over where systemd is not there."""
BUSY = 4
"""Exit status of a verb for something in use."""


def hooks_of(tree: str, destdir: str = "") -> list[Path]:
    """The hook's files that name a program in ``tree``, where engines look by default, and who is not root has Podman
    look."""
    places = [Path(f"{destdir}{place}") for place in HOOK_DIRECTORIES]
    if os.geteuid() != 0 and not destdir:
        places.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers/oci/hooks.d"))
    found = [path for place in places for path in sorted(place.glob("*.json"))]
    return [path for path in found if f'"{tree}/' in path.read_text("utf-8", "replace")]


def after_install(places: Places, *, upgrade: bool, say: Callable[[str], None]) -> None:
    """Have services and processes that run the code that was replaced go on with the new one."""
    if _systemd():
        _systemctl(places, "daemon-reload")
    if not upgrade:
        return
    for service, verb in SERVICES.items():
        if _systemd() and _systemctl(places, "is-active", "--quiet", service):
            if not _systemctl(places, "try-restart", service):
                say(f"{service} could not be restarted: see '{' '.join(_command(places))} status {service}'")
        elif verb is not None:
            done = _stratum(places, verb, "--restart-worker")
            if done.returncode == 0:
                say(f"what 'stratum {verb}' started goes on with the new code")
    for path in hooks_of(places.tree):
        say(f"{path} runs what was installed now; 'stratum hook doctor' says whether all is as it should be")


def before_removal(places: Places, destdir: str, *, force: bool, say: Callable[[str], None]) -> None:
    """See that nothing needs the program any more, and end what runs. Raises ``SetupError``."""
    hooks = hooks_of(places.tree, destdir)
    if hooks and not force:
        raise SetupError(
            f"container engines run it by {', '.join(map(str, hooks))}; without it, containers with annotations of "
            "Stratum would start on empty directories, without a word",
            "run 'stratum hook uninstall' first, or say FORCE=yes",
        )
    if not destdir:
        done = _stratum(places, "hydrate", "--stop")
        if done.returncode == BUSY and not force:
            raise SetupError(
                "it serves mounts of strata that are not here whole", "unmount them first, or say FORCE=yes"
            )
        if _systemd():
            directory = places.units if places.system else places.user_units
            units = [path.name for path in sorted(Path(directory).glob("stratum-*"))]
            _systemctl(places, "stop", *(unit.replace("@.", "@*.") for unit in units))
            _systemctl(places, "disable", *units)
        _stratum(places, "watch", "--stop")
    if hooks and not destdir:
        _stratum(places, "hook", "uninstall")  # also what has Podman look there
    for path in hooks:
        path.unlink(missing_ok=True)
        say(f"{path} is removed: containers with annotations of Stratum start without their volumes from now on")


def after_removal(places: Places, say: Callable[[str], None]) -> None:
    """Tell systemd, and say what stays."""
    if _systemd():
        _systemctl(places, "daemon-reload")
    left = [path for path in ("/var/lib/stratum", "/etc/stratum") if Path(path).exists()]
    if left:
        say(f"left as it is: {' and '.join(left)}, and what is mounted, until 'umount'")


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _command(places: Places) -> list[str]:
    """systemctl of the manager whose units these are: the machine's, or this user's."""
    return ["systemctl"] if places.system else ["systemctl", "--user"]


def _systemctl(places: Places, *arguments: str) -> bool:
    return subprocess.run([*_command(places), *arguments], check=False, capture_output=True).returncode == 0


def _stratum(places: Places, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [f"{places.tree}/bin/python3", "-I", "-m", "stratum", *arguments]
    return subprocess.run(command, check=False, capture_output=True)
