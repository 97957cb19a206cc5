"""Which verbs of an ordinary user work in the session namespace (``stratum.rootless``), and which wait for none to be
made."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratum.config import Config

_LOOKING = {"", "list", "show", "log", "ps", "info", "metrics", "tag", "export", "verify"}
"""They look at what is there; nothing is there that only a namespace which was not made yet could show."""
_OUTSIDE = {"push", "pull", "login", "logout", "peer", "share", "hook install", "hook uninstall"}
"""They ask programs for passwords, which know the user by another ID than 0, or are about files of the host alone."""
_NEEDING = {"init", "mount", "shell", "unshare", "hydrate"}
_MOUNTLESS = {"list", "show", "log", "ls", "cat", "find", "diff", "tag", "import", "export", "restore", "verify"}
"""They can do without the mounts of the session, where what they are about is not to be seen in there."""
_PASSING = {"import", "status", "diff", "ls", "cat", "find", "du", "fsck"}
"""They need the IDs of a session, and where there is none nothing else of it: none is left behind."""
_PROGRAMS = {"shell", "unshare"}
"""They are about what the user has there, whatever the store."""
_STARTING = {"import", "init", "mount", "shell", "unshare", "volume-plugin", "hook doctor"}
"""They may be the first of a user, who has no store yet."""


def enter_session(config: Config, words: str, warn: Callable[[str], None]) -> Config:
    """Move this process into the user's session namespace, where the verb is to run there; root's stays where it is.

    ``words`` are those of the verb, such as ``worktree add``; none for what completes words and for prompts.
    Returns the settings as they are then: with what Podman is to find in the environment in there.

    Raises ``UnsupportedError`` where the verb can do nothing outside, and none can be made, or where what it is about
    is not to be seen in there.
    """
    verb = words.partition(" ")[0]
    if os.geteuid() == 0 or not _OUTSIDE.isdisjoint((verb, words)) or (verb not in _PROGRAMS and _is_anothers(config)):
        return config
    from stratum.config import add_to_environment
    from stratum.frozen import replace
    from stratum.rootless.session import enter, obstacle, variables

    make = verb not in _LOOKING and (not _STARTING.isdisjoint((verb, words)) or os.path.exists(config.store))
    notes = enter(config, make=make, paths=_paths(config), mounts=verb not in _MOUNTLESS, stays=verb not in _PASSING)
    for note in notes or ():
        warn(note)
    added = variables()
    add_to_environment(added)
    failed = obstacle()
    if failed is not None and verb in _NEEDING:
        restore = "; 'stratum restore' writes the files of a commit without a mount" if verb == "mount" else ""
        raise UnsupportedError(failed.message, hint=f"{failed.hint}{restore}".removeprefix("; "))
    if failed is not None and verb == "import":
        warn(f"owners are recorded by the IDs that they have on this machine: {failed.message}")
    return replace(config, environment={**config.environment, **added}) if added else config


def _is_anothers(config: Config) -> bool:
    """Whether the store is another user's: who may read it reads it as what they are."""
    try:
        return os.stat(config.store).st_uid != os.geteuid()
    except OSError:
        return False


def _paths(config: Config) -> list[str]:
    """What the command line could name, and where the store and the mount state are."""
    words = [word.partition("=")[2] if word.startswith("-") else word for word in sys.argv[1:]]
    found = []
    for path in (str(config.store), str(config.runtime_dir), *filter(None, words)):
        with suppress(OSError):  # relative, and there is no working directory
            found.append(os.path.realpath(path))
    return found
