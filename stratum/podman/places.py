"""Where Podman looks for hooks and for files of settings: root's are below /etc, a user's below ``~/.config``.

A user's Podman reads both kinds of settings, and of two hooks with one file name that of the directory that is named
last: so a user's hook is used instead of root's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stratum.config import in_home
from stratum.frozen import frozen
from stratum.sys.userns import owns_system, system_owners

DEFAULT_DIRECTORY = Path("/etc/containers/oci/hooks.d")
PODMAN_SETTINGS = Path("/etc/containers/containers.conf.d/stratum-hooks.conf")


@frozen
class Places:
    """``hooks`` is the directory of the hook's files, ``settings`` the file that names it to Podman; ``system`` is
    whether both are for all of the machine, and root runs the hook."""

    hooks: Path
    settings: Path
    system: bool


SYSTEM = Places(DEFAULT_DIRECTORY, PODMAN_SETTINGS, True)


def places_for(environment: Mapping[str, str]) -> Places:
    """The places of who calls: root's, or those of the user that ``environment`` is of."""
    if owns_system():
        return SYSTEM
    containers = in_home(environment, "XDG_CONFIG_HOME", ".config") / "containers"
    return Places(containers / "oci/hooks.d", containers / "containers.conf.d/stratum-hooks.conf", False)


def trusted_owners() -> frozenset[int]:
    """The user IDs of root and of who calls, as seen from here: nobody else may own what a hook runs."""
    return system_owners() | {os.geteuid()}
