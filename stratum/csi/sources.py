"""Where a volume's content comes from: a registry, with the request's credentials, or the node's own store.

What is pulled goes into a stratum of its own, named after the repository and a digest of where it is, so that no pull
for a volume moves a tag that a user, or another registry's repository, gave. Secrets are those of ``kubernetes.io/
dockerconfigjson`` or ``kubernetes.io/basic-auth``; they live in memory for as long as the call needs them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stratum.api import transfer
from stratum.api.session import Session
from stratum.csi.driver import Driver
from stratum.csi.errors import invalid
from stratum.csi.jobs import Caller
from stratum.frozen import replace
from stratum.refs import DEFAULT_TAG, Ref, check_name
from stratum.registry.target import Target, parse_target

_DOCKER_CONFIG = ".dockerconfigjson"
_NOWHERE = "/nonexistent"


@dataclass(frozen=True, slots=True)
class Origin:
    """Content that is in the store: a commit and the stratum that a worktree over it goes into."""

    stratum: str
    commit: str


def registry_stratum(target: Target) -> str:
    """The stratum that pulls from the target's repository go into."""
    place = f"{target.host}/{target.repository}"
    return f"{target.repository.rpartition('/')[2][:60]}-{hashlib.sha256(place.encode()).hexdigest()[:10]}"


def fetch(
    driver: Driver, source: Target | Ref, secrets: Mapping[str, str], caller: Caller, *, inline: bool = False
) -> Origin:
    """Have the content of ``source`` in the store. ABORTED while a pull goes on in the background.

    An ``inline`` volume's source is a pod author's wish: it gets the request's credentials and none of the node's, and
    of the node's strata tags only.
    """
    if isinstance(source, Ref):
        return _inline_tag(driver, source) if inline else _local(driver, source)
    stratum = registry_stratum(source)
    tag = f"sha256-{source.digest.partition(':')[2][:32]}" if source.digest else source.tag
    commit = pull(driver, source, f"{stratum}:{check_name(tag, 'tag')}", secrets, caller, isolated=inline)
    return Origin(stratum, commit)


def pull(
    driver: Driver,
    target: Target,
    name: str,
    secrets: Mapping[str, str],
    caller: Caller,
    *,
    isolated: bool = False,
) -> str:
    """Pull ``target`` to NAME:TAG in a job; the commit. ``isolated`` leaves the node's own credentials out."""
    secrets = dict(secrets)

    def work() -> str:
        with session_with(driver.session, secrets, target, isolated=isolated) as session:
            done = transfer.pull(session, str(target), name)
        driver.metrics.pulled(done.bytes_received)
        return done.commit

    # Another pod's secrets may not join a pull that was let in with these.
    proof = hashlib.sha256(json.dumps([sorted(secrets.items()), isolated]).encode()).hexdigest()[:12]
    return driver.jobs.run(("pull", str(target), name, proof), work, caller)


def push(driver: Driver, commit: str, reference: str, secrets: Mapping[str, str]) -> None:
    """Push a commit to ``reference`` (HOST/REPOSITORY:TAG)."""
    target = parse_target(reference)
    with session_with(driver.session, secrets, target) as session:
        done = transfer.push(session, commit, reference)
    driver.metrics.pushed(done.bytes_sent)


def _local(driver: Driver, ref: Ref) -> Origin:
    resolved = driver.session.store.resolve(ref)
    if resolved.name is None:
        raise invalid(f"source {ref} names a commit but no stratum", hint="write NAME:COMMIT")
    return Origin(resolved.name, resolved.commit)


def _inline_tag(driver: Driver, ref: Ref) -> Origin:
    """A tag and nothing else: commits by hash and worktrees may belong to somebody else's volume."""
    if ref.worktree is not None:
        raise invalid(f"source {ref}: an inline volume cannot have a worktree as its source", hint="name a tag")
    name = check_name(ref.name)
    return Origin(name, driver.session.store.tags.get(name, ref.tag or DEFAULT_TAG))


@contextlib.contextmanager
def session_with(
    session: Session, secrets: Mapping[str, str], target: Target, *, isolated: bool = False
) -> Iterator[Session]:
    """A session whose registry credentials are those of ``secrets``, before (``isolated``: instead of) the node's."""
    environment = dict(session.config.environment)
    if isolated:
        environment |= {"HOME": _NOWHERE, "XDG_RUNTIME_DIR": _NOWHERE, "XDG_CONFIG_HOME": _NOWHERE}
        environment |= {"DOCKER_CONFIG": _NOWHERE, "REGISTRY_AUTH_FILE": ""}
    auths = _auths(secrets, target)
    if not auths:
        yield Session(replace(session.config, environment=environment))
        return
    file = os.memfd_create("registry-credentials", os.MFD_CLOEXEC)
    try:
        os.write(file, json.dumps({"auths": auths}).encode())
        environment["REGISTRY_AUTH_FILE"] = f"/proc/{os.getpid()}/fd/{file}"
        yield Session(replace(session.config, environment=environment))
    finally:
        os.close(file)


def _auths(secrets: Mapping[str, str], target: Target) -> dict[str, dict[str, str]]:
    """The ``auths`` table of a docker configuration, and nothing that would start a credential helper."""
    found: dict[str, dict[str, str]] = {}
    if _DOCKER_CONFIG in secrets:
        for host, entry in _docker_auths(secrets[_DOCKER_CONFIG]).items():
            if not isinstance(entry, dict):
                continue
            if isinstance(entry.get("auth"), str) and entry["auth"]:
                found[host] = {"auth": entry["auth"]}
            elif isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
                found[host] = {"auth": _basic(entry["username"], entry["password"])}
    if "username" in secrets and "password" in secrets and target.host is not None:
        found[target.host] = {"auth": _basic(secrets["username"], secrets["password"])}
    return found


def _docker_auths(text: str) -> dict[str, Any]:
    try:
        auths = json.loads(text)["auths"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid(f"the secret's {_DOCKER_CONFIG} is not a docker configuration with 'auths'") from None
    if not isinstance(auths, dict):
        raise invalid(f"the secret's {_DOCKER_CONFIG} is not a docker configuration with 'auths'")
    return auths


def _basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()
