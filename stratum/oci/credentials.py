"""Finding a registry's credentials where podman, skopeo, docker and oras keep them.

In this order: ``REGISTRY_AUTH_FILE``, ``$XDG_RUNTIME_DIR/containers/auth.json`` (root: ``/run/containers/0``),
``$XDG_CONFIG_HOME/containers/auth.json``, ``$DOCKER_CONFIG/config.json`` (``~/.docker``). In each: a credential helper
for the host, an entry for the repository or a part of its path, an entry for the host, the default helper.

Some registries give out an identity token in place of a password, to be traded for access tokens. As in docker's
credential helpers it is the password of the user ``<token>`` here.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stratum.errors import StratumError, os_error_text
from stratum.sys.atomic import write_atomic
from stratum.sys.smallfile import read_regular
from stratum.sys.userns import outer_uid, owns_system

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT = 60
_FILE_MAX = 4 << 20
IDENTITY = "<token>"
"""The user whose password is an identity token."""

_DOCKER_HUB = "https://index.docker.io/v1/"


def identity_token(secret: str) -> str | None:
    """The identity token in a base64 ``user:password``, or None where it is an ordinary password."""
    user, _, token = base64.b64decode(secret).decode("utf-8", "replace").partition(":")
    return token if user == IDENTITY else None


def auth_files(environment: Mapping[str, str]) -> list[Path]:
    """The files in which credentials are looked for, in order; those that do not exist included."""
    home = Path(environment.get("HOME") or "/")
    named = environment.get("REGISTRY_AUTH_FILE")
    runtime = environment.get("XDG_RUNTIME_DIR")
    default_runtime = "/run/containers/0" if owns_system() else f"/run/user/{outer_uid()}/containers"
    files = [Path(named)] if named else []
    files += [
        Path(runtime, "containers/auth.json") if runtime else Path(default_runtime, "auth.json"),
        Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"),
        Path(environment.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
    ]
    return files


def find_credentials(host: str, repository: str, environment: Mapping[str, str]) -> str | None:
    """The base64 ``user:password`` for a repository, or None. ``StratumError`` where a file or a helper fails."""
    for path in auth_files(environment):
        config = _read(path)
        for key in _keys(host, repository):
            helper = _table(config, "credHelpers").get(key)
            if isinstance(helper, str):
                found = _ask_helper(helper, key, environment)
            else:
                found = _entry(_table(config, "auths").get(key), str(path))
            if found:
                return found
        store = config.get("credsStore")
        if isinstance(store, str) and store:
            for key in (host, _DOCKER_HUB) if host == "registry-1.docker.io" else (host,):
                found = _ask_helper(store, key, environment)
                if found:
                    return found
    return None


def find_in(auths: Mapping[str, object], where: str, host: str, repository: str) -> str | None:
    """As ``find_credentials``, in the ``auths`` table of a docker configuration and nowhere else; ``where`` names it in
    errors."""
    return next(filter(None, (_entry(auths.get(key), where) for key in _keys(host, repository))), None)


def holds(path: Path, host: str) -> bool:
    """Whether ``path`` has an entry of its own for ``host``."""
    return host in _table(_read(path), "auths")


def remember(path: Path, host: str, secret: str) -> None:
    """Write the base64 ``user:password`` for ``host`` to ``path`` (mode 0600), leaving everything else in it alone."""
    config = _read(path)
    config["auths"] = {**_table(config, "auths"), host: {"auth": secret}}
    _write(path, config)


def forget(path: Path, host: str) -> bool:
    """Remove the entry for ``host`` from ``path``; whether there was one."""
    config = _read(path)
    auths = _table(config, "auths")
    if auths.pop(host, None) is None:
        return False
    config["auths"] = auths
    _write(path, config)
    return True


def _write(path: Path, config: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, json.dumps(config, indent=1).encode() + b"\n", mode=0o600)
    except OSError as exc:
        raise StratumError(f"cannot write the credentials to {path}: {os_error_text(exc)}") from None


def _keys(host: str, repository: str) -> Iterator[str]:
    """What an entry may be filed under, the most specific first."""
    parts = repository.split("/") if repository else []
    names = [host, "docker.io"] if host == "registry-1.docker.io" else [host]
    for name in names:
        for count in range(len(parts), 0, -1):
            yield "/".join([name, *parts[:count]])
        yield name
        yield f"https://{name}"
    if host == "registry-1.docker.io":
        yield _DOCKER_HUB


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path, _FILE_MAX)[1])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise StratumError(f"cannot read the credentials in {path}: {os_error_text(exc)}") from None
    except (ValueError, RecursionError):
        raise StratumError(f"{path} is not valid JSON", hint="repair or remove it, or log in again") from None
    return value if isinstance(value, dict) else {}


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _entry(entry: object, where: str) -> str | None:
    if not isinstance(entry, dict):
        return None
    identity = entry.get("identitytoken")
    if isinstance(identity, str) and identity:
        return base64.b64encode(f"{IDENTITY}:{identity}".encode()).decode()
    if not isinstance(entry.get("auth"), str) or not entry["auth"]:
        return None
    try:
        plain = base64.b64decode(entry["auth"], validate=True)
    except ValueError:
        raise StratumError(f"an 'auth' in {where} is not base64", hint="log in again") from None
    return base64.b64encode(plain.rstrip(b"\0")).decode()


def _ask_helper(helper: str, host: str, environment: Mapping[str, str]) -> str | None:
    """Run ``docker-credential-HELPER get`` (docker credential helper protocol); None where it knows no password."""
    import subprocess  # which takes as long to load as a small request, and few have a helper

    if not _HELPER.fullmatch(helper):
        raise StratumError(f"{helper!r} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=host.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT,
            env=dict(environment),
            check=False,
        )
    except FileNotFoundError:
        raise StratumError(f"the credential helper {program} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as exc:
        reason = os_error_text(exc) if isinstance(exc, OSError) else "no answer"
        raise StratumError(f"the credential helper {program} failed: {reason}") from None
    if done.returncode != 0:
        return None
    try:
        answer = json.loads(done.stdout)
        return base64.b64encode(f"{answer['Username']}:{answer['Secret']}".encode()).decode()
    except (ValueError, KeyError, TypeError):
        raise StratumError(f"the credential helper {program} gave an answer that is not credentials") from None
