"""Where a volume's content comes from: a registry, with the request's credentials, or the node's own store.

What is pulled goes into a stratum of its own, named after the repository and a digest of where it is, so that no pull
for a volume moves a tag that a user, or another registry's repository, gave. It is on record (``PullRecord``), so that
a volume may begin with it again without asking the registry, and that it goes when no volume uses it any more. Secrets
are those of ``kubernetes.io/dockerconfigjson`` or ``kubernetes.io/basic-auth``, or keys of an object store; they live
in memory for as long as the call needs them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stratum.api import transfer
from stratum.csi.attributes import PullPolicy
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, Code, invalid, precondition
from stratum.csi.jobs import INLINE, PROVISIONING, Caller, Lane, Task
from stratum.csi.records import PullRecord
from stratum.errors import DeniedError, UntrustedError
from stratum.hydrate.reaching import with_keys
from stratum.oci.access import Access, Credentials
from stratum.oci.credentials import find_in
from stratum.oci.target import Target, parse_target
from stratum.oci.tls import system_authorities
from stratum.refs import DEFAULT_TAG, Ref, check_name
from stratum.store.resolve import ResolvedTag

_DOCKER_CONFIG = ".dockerconfigjson"
_PROCESS_KEY = os.urandom(32)
_NOTE_AGE = 600 * 1_000_000_000
"""Nanoseconds after which another use of a pull is written down."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Content that is in the store: a commit and the stratum that a worktree over it goes into."""

    stratum: str
    commit: str


KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
)
"""Names of keys in a secret for an object store."""

FROM_PUBLISH = "nodePublishSecretRef of the volume"
FROM_STAGE = "nodeStageSecretRef of the volume"
FROM_CLASS = "csi.storage.k8s.io/provisioner-secret-name (and -namespace) of the StorageClass"
FROM_SOURCE = "secretRef of the StratumSource"
FROM_SNAPSHOT_CLASS = "csi.storage.k8s.io/snapshotter-secret-name (and -namespace) of the VolumeSnapshotClass"
FROM_GROUP_CLASS = "csi.storage.k8s.io/group-snapshotter-secret-name (and -namespace) of the VolumeGroupSnapshotClass"
FROM_GROUP_GET = "csi.storage.k8s.io/group-snapshotter-get-secret-name (and -namespace) of the VolumeGroupSnapshotClass"
FROM_LIST = "csi.storage.k8s.io/snapshotter-list-secret-name (and -namespace) of the VolumeSnapshotClass"
"""Where people name the secrets that a call brings."""


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf something is fetched or sent.

    ``isolated`` is for the wish of whoever may write in a namespace: it gets the request's ``secrets`` and no
    credentials of the node, and all that is pulled for it comes from the place that it names; but where that is
    ``trusted`` to have what it lists.
    ``namespace`` is the pod's, claim's or snapshot's, empty where it is not known. ``named_in`` says where the
    secrets are named.
    """

    caller: Caller
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    namespace: str = ""
    named_in: str = ""
    isolated: bool = False
    trusted: bool = False

    @property
    def tenant(self) -> str:
        """Who may use again what was pulled for this asker."""
        return f"{'pods' if self.isolated else 'claims'} of {self.namespace}"

    @property
    def lane(self) -> Lane:
        """The work that pulls for this asker are part of."""
        return INLINE if self.isolated else PROVISIONING

    def proof(self) -> str:
        """What is the same for equal secrets only, and tells nothing about them outside of this process."""
        secrets = json.dumps([sorted(self.secrets.items()), self.isolated]).encode()
        return hmac.digest(_PROCESS_KEY, secrets, "sha256").hex()


def registry_stratum(target: Target, namespace: str | None = None) -> str:
    """The stratum that pulls from the target's repository go into: one for classes and static volumes, and one for the
    inline volumes of each namespace, whose tags nobody else's volume makes or reads."""
    place = target.place if namespace is None else f"{namespace} {target.place}"
    last = target.repository.rpartition("/")[2] if target.bucket is None else target.bucket.last
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:60].strip("._-") or "pulled"
    return f"{called}-{hashlib.sha256(place.encode()).hexdigest()[:32]}"


def fetch(
    driver: Driver, source: Target | Ref, asker: Asker, policy: PullPolicy | None = None, *, lazy: bool | None = None
) -> Origin:
    """Have the content of ``source`` in the store. ABORTED while a pull goes on in the background.

    Of the node's strata, an isolated asker may have tags only. ``policy`` says when a registry is asked; by default
    once for a digest, and each time for a tag. ``lazy`` says whether a pull leaves contents to the first read (None:
    what the settings say); for an isolated asker it brings them always, unless the place is trusted, as a list of
    contents proves nothing about who may read them. FAILED_PRECONDITION where the registry may not be asked and that
    was never done.
    """
    if isinstance(source, Ref):
        if asker.isolated and driver.made_stratum(source.name):
            raise CallError(
                Code.PERMISSION_DENIED, f"{source.name} holds volumes of others, or what these were made of"
            )
        return _inline_tag(driver, source) if asker.isolated else _local(driver, source)
    if policy is None:
        policy = PullPolicy.IF_NOT_PRESENT if source.digest else PullPolicy.ALWAYS
    if asker.isolated:
        lazy = bool(lazy) and asker.trusted
    elif lazy is None:
        lazy = driver.session.config.lazy
    known = _pulled_before(driver, source, asker) if policy != PullPolicy.ALWAYS else None
    partial = known is not None and driver.session.store.sources.is_partial(known.commit)
    if known is not None and (lazy or policy == PullPolicy.NEVER or not partial):
        return Origin(known.stratum, known.commit)
    if policy == PullPolicy.NEVER:
        raise precondition(
            f"{source} was not pulled to this node before, and pullPolicy is Never",
            hint="what other namespaces pulled does not count",
        )
    stratum = registry_stratum(source, asker.namespace if asker.isolated else None)
    tag = check_name(f"sha256-{source.digest.partition(':')[2][:32]}" if source.digest else source.tag, "tag")
    record = PullRecord(_pull_key(source, asker), str(source), asker.tenant, stratum, tag)
    commit = pull(driver, source, f"{stratum}:{tag}", asker, record, lazy=lazy)
    if driver.pulls.get(record.key) is None:  # it joined another tenant's pull
        driver.pulls.put(replace(record, commit=commit))
    return Origin(stratum, commit)


def _pull_key(source: Target, asker: Asker) -> str:
    return f"pull-{hashlib.sha256(f'{asker.tenant} {source}'.encode()).hexdigest()[:40]}"


def _pulled_before(driver: Driver, source: Target, asker: Asker) -> PullRecord | None:
    """The last pull of ``source`` for the same tenant, where its commit is still there: noted as used now.

    Whoever can make pods in a namespace can name each of its secrets, and so pull again what was pulled with one. What
    others pulled is theirs, though its bytes be on the node.
    """
    with driver.session.store.locks.store():  # a collection meanwhile would not see that it is used
        record = driver.pulls.get(_pull_key(source, asker))
        if record is None or not record.commit or not driver.session.store.commits.exists(record.commit):
            return None
        if time.time_ns() - record.used > _NOTE_AGE:
            driver.pulls.put(replace(record, used=time.time_ns()))
    return record


def pull(
    driver: Driver,
    target: Target,
    name: str,
    asker: Asker,
    record: PullRecord | None = None,
    *,
    lazy: bool,
    force: bool = False,
) -> str:
    """Pull ``target`` to NAME:TAG in a job, and put it on ``record``; the commit.

    A tag in a stratum that the driver made for pulls is the driver's to move, others are with ``force``.
    RESOURCE_EXHAUSTED where the disk would be too full.
    """
    # Another pod's secrets may not join a pull that was let in with these.
    task = Task(f"pull of {target}", (name, asker.proof(), *(("lazy",) if lazy else ())), asker.lane, asker.namespace)

    def check_wanted(_done: int, _total: int | None, /, files: int | None = None) -> None:
        driver.jobs.check_wanted(task)

    def work() -> str:
        with (
            driver.room.held(str(target)) as room,
            access_for(driver, asker, target) as access,
            _recorded(driver, record) as commits,
        ):
            done = transfer.pull(
                driver.session,
                str(target),
                name,
                access=access,
                isolated=asker.isolated and not lazy,
                lazy=lazy,
                mounted=True,
                force=force or record is not None,
                progress=check_wanted,
                room=room,
            )
            commits.append(done.commit)
        driver.metrics.pulled(done.bytes_received)
        return done.commit

    return driver.jobs.run(task, work, asker.caller)


@contextlib.contextmanager
def _recorded(driver: Driver, record: PullRecord | None) -> Iterator[list[str]]:
    """Have a pull on record from before its tag is made, so that a kill leaves no stratum of which nobody knows. The
    block appends the commit."""
    commits: list[str] = []
    if record is None:
        yield commits
        return
    before = driver.pulls.get(record.key)
    if before is None:
        driver.pulls.put(record)
    try:
        yield commits
    finally:
        if commits:
            driver.pulls.put(replace(record, commit=commits[0], used=time.time_ns()))
        elif before is None:
            driver.pulls.remove(record.key)


def push(driver: Driver, commit: str, reference: str, asker: Asker) -> None:
    """Push a commit to ``reference``, a place with a tag."""
    with access_for(driver, asker, parse_target(reference)) as access:
        done = transfer.push(driver.session, commit, reference, access=access)
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
    name, store = check_name(ref.name), driver.session.store
    if ref.tag is not None:
        return Origin(name, store.tags.get(name, ref.tag))
    found = store.resolve(ref)
    if not isinstance(found, ResolvedTag):
        raise invalid(
            f"source {ref}: {found} is no tag, and of what is on the node an inline volume can have tags only",
            hint=f"write {name}:{DEFAULT_TAG}, or another tag",
        )
    return Origin(name, found.commit)


@contextlib.contextmanager
def access_for(driver: Driver, asker: Asker, target: Target) -> Iterator[Access]:
    """How the registry of ``target`` is reached. What it says in the block is put into words for those who write
    manifests."""
    access = node_access(driver)
    access = replace(access, credentials=credentials(asker, target, access.credentials))
    if target.bucket is not None:
        keys = keys_of(asker.secrets)
        access = with_keys(access, keys) if keys or asker.isolated else access
    with _for_pods(asker, target):
        yield access


def node_access(driver: Driver) -> Access:
    """How places are reached with what the node has."""
    access = driver.session.access()
    if driver.options.ca_file is None:
        return access
    known = access.authorities or tuple(filter(None, (system_authorities(),)))
    return replace(access, authorities=(*known, driver.options.ca_file))


def credentials(asker: Asker, target: Target, of_node: Credentials) -> Credentials:
    """What finds the asker's credentials, before (isolated: instead of) those of the node. INVALID_ARGUMENT where its
    secrets are malformed."""
    auths = auths_of(asker.secrets, target)

    def find(host: str, repository: str) -> str | None:
        found = find_in(auths, "the secret", host, repository)
        return found if found is not None or asker.isolated else of_node(host, repository)

    return find


@contextlib.contextmanager
def _for_pods(asker: Asker, target: Target) -> Iterator[None]:
    """Say what to do in words for those who write manifests: the registry client's are for the command line."""
    try:
        yield
    except DeniedError as exc:
        hint = f"name a secret for {target.host or target.place}, of a user who may do this, in {asker.named_in}"
        raise DeniedError(exc.message, hint=hint) from None
    except UntrustedError as exc:
        raise UntrustedError(exc.message, hint="--ca-file of stratum-csi names further authorities") from None


def keys_of(secrets: Mapping[str, str]) -> dict[str, str]:
    """Those of a secret that are keys of an object store, as its own tools call them. Nothing else of it counts: no
    file, no program, no other address."""
    return {name: secrets[name] for name in KEYS if secrets.get(name)}


def auths_of(secrets: Mapping[str, str], target: Target | None) -> dict[str, dict[str, str]]:
    """The ``auths`` table of a docker configuration, and nothing that would start a credential helper. A user and a
    password without a host are for that of ``target``. INVALID_ARGUMENT where the secrets are malformed."""
    found: dict[str, dict[str, str]] = {}
    if _DOCKER_CONFIG in secrets:
        for host, entry in _docker_auths(secrets[_DOCKER_CONFIG]).items():
            if not isinstance(entry, dict):
                continue
            if isinstance(entry.get("auth"), str) and entry["auth"]:
                found[host] = {"auth": entry["auth"]}
            elif isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
                found[host] = {"auth": _basic(entry["username"], entry["password"])}
    if "username" in secrets and "password" in secrets and target is not None and target.host is not None:
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
