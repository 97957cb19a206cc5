"""Telling Podman where the volume plugin listens: a file in containers.conf.d, root's or a user's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stratum import toml
from stratum.errors import ConflictError, StratumError, os_error_text
from stratum.podman.places import places_for
from stratum.sys.atomic import write_atomic

NAME = "stratum-volumes.conf"
_DRIVER = "stratum"
_MARK = "# Written by 'stratum volume-plugin --install'; without it Podman knows no driver 'stratum'.\n"


def install_driver(socket: Path, environment: Mapping[str, str]) -> Path:
    """Have Podman look for the driver ``stratum`` at ``socket``; the file that says so.

    Raises ``ConflictError`` for a file of that name which is not ours, ``StratumError`` where it cannot be written.
    """
    settings = places_for(environment).settings.with_name(NAME)
    text = _MARK + toml.dumps({"engine": {"volume_plugins": {_DRIVER: str(socket)}}})
    try:
        if settings.exists() and not settings.read_bytes().startswith(_MARK.encode()):
            raise ConflictError(
                f"{settings} was not written by 'stratum volume-plugin --install'",
                hint=f"look at it, then: mv {settings} {settings}.old; and the same again",
            )
        settings.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(settings, text.encode("utf-8"))
    except OSError as exc:
        raise StratumError(f"cannot write {settings}: {os_error_text(exc)}") from None
    return settings
