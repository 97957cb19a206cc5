"""The policy: which strata a container may mount, where, and who may ask for it.

``/etc/stratum/policy.toml`` holds rules; a volume is allowed where one rule matches it in every key it has::

    [[allow]]
    engine = "podman"               # "podman" or "kubernetes"
    strata = ["myapp", "game-*"]    # strata by name; default: all
    destinations = ["/data", "/srv/*"]   # paths in the container; default: all
    namespaces = ["team-a"]         # Kubernetes namespaces; default: all
    access = "ro"                   # "ro" or "rw"; default: rw, which includes ro. "ro" makes nothing out of nothing
    pull = true                     # and, with the option lazy, have a missing tag fetched from the registry (or the
                                    # object store) of the settings, with the credentials that root has there; default:
                                    # false. No annotation names another place
    history = true                  # and, with the option history, have all that is written in a worktree kept, which
                                    # takes room of the store's; default: false

Patterns are those of the shell, with ``*`` matching '/' too. A ref that is a commit hash, or may be the beginning of
one, reaches any stratum's content: only a rule with ``strata = ["*"]`` (or none) lets it through.

An engine with no rule of its own keeps its default: with Podman all is allowed, because its caller is root already, or
the user whose store it is (rules for ``podman`` hold for users, too); with Kubernetes (CRI-O) nothing is, because a
pod's author must not reach every stratum of the node. A container of neither engine is allowed nothing.

Whoever can write the file can mount every stratum, so it is refused unless root owns it and the directory that it is
in, and nobody else can write them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stratum.errors import StratumError, UsageError
from stratum.frozen import frozen
from stratum.refs import Ref, is_hash_prefix
from stratum.sys.smallfile import read_trusted
from stratum.sys.userns import system_owners
from stratum.volumes.request import Volume

POLICY_FILE = Path("/etc/stratum/policy.toml")
MAX_POLICY = 1 << 20

PODMAN = "podman"
KUBERNETES = "kubernetes"
ENGINES = (PODMAN, KUBERNETES)

_MANAGER = "io.container.manager"
_NAMESPACE = "io.kubernetes.pod.namespace"
_ALL = ("*",)


class ForbiddenError(StratumError):
    """The policy does not allow a volume."""

    id = "forbidden"


@frozen
class Caller:
    """Who asks: the container engine (one of ``ENGINES``, or what an unknown one calls itself) and the namespace."""

    engine: str
    namespace: str = ""


@frozen
class Rule:
    """One ``[[allow]]`` table."""

    engine: str
    strata: tuple[str, ...] = _ALL
    destinations: tuple[str, ...] = _ALL
    namespaces: tuple[str, ...] = _ALL
    read_only: bool = False
    pull: bool = False
    history: bool = False

    def allows(self, caller: Caller, volume: Volume) -> bool:
        """Whether this rule lets ``caller`` mount ``volume``, make it from its ``create`` base, and fetch that."""
        refs = [volume.ref] if volume.create is None else [volume.ref, volume.create]
        return (
            caller.engine == self.engine
            and all(_matches_stratum(self.strata, ref) for ref in refs)
            and _matches(self.destinations, volume.destination)
            and _matches(self.namespaces, caller.namespace)
            and (not self.read_only or (volume.read_only and not _brings_content(volume)))
            and (self.pull or not volume.lazy)
            and (self.history or not volume.history)
        )


@frozen
class Policy:
    """The rules in force; without any, the defaults above."""

    rules: tuple[Rule, ...] = ()

    def check(self, caller: Caller, volume: Volume) -> None:
        """Raise ``ForbiddenError`` unless ``caller`` may mount ``volume``."""
        rules = [rule for rule in self.rules if rule.engine == caller.engine]
        allowed = any(rule.allows(caller, volume) for rule in rules) if rules else caller.engine == PODMAN
        if not allowed:
            who = f"{caller.engine} namespace {caller.namespace}" if caller.namespace else caller.engine
            access = "read-only" if volume.read_only else "writable"
            asked = [f"'{word}'" for word, given in (("lazy", volume.lazy), ("history", volume.history)) if given]
            options = f", with {' and '.join(asked)}" if asked else ""
            raise ForbiddenError(
                f"policy: {who} may not mount {volume.ref} {access} at {volume.destination}{options}",
                hint=f"an administrator can allow it in {POLICY_FILE}",
            )


def caller_of(annotations: Mapping[str, str]) -> Caller:
    """Who started the container, by the annotations that the engine itself sets.

    A pod's annotations reach the same table, so only what a pod's author cannot take away counts: anything that
    CRI-O adds to each of its containers makes the caller Kubernetes, whatever else is claimed.
    """
    namespace = annotations.get(_NAMESPACE, "")
    manager = annotations.get(_MANAGER, "")
    if namespace or manager == "cri-o" or any(key.startswith("io.kubernetes.pod.") for key in annotations):
        return Caller(KUBERNETES, namespace)
    if manager == "libpod":
        return Caller(PODMAN)
    return Caller(f"unknown engine {ascii(manager)[:40]}" if manager else "an unknown engine")


def load_policy(path: Path = POLICY_FILE) -> Policy:
    """Read the policy; a missing file is the defaults.

    Raises ``UsageError`` for a file that root does not own, that others can write, that is in such a directory, or that
    breaks the format: a policy that cannot be trusted or understood allows nothing.
    """
    data = read_trusted(path, MAX_POLICY, system_owners())
    return parse_policy(data, path) if data is not None else Policy()


def parse_policy(data: bytes, path: Path = POLICY_FILE) -> Policy:
    """Parse the policy's text; ``path`` is for messages. Raises ``UsageError``."""
    try:
        from stratum import toml

        table = toml.loads(data.decode("utf-8"))
    except ValueError as exc:
        raise UsageError(f"{path} is not valid TOML: {exc}") from None
    _check_keys(table, ("allow",), str(path))
    rules = table.get("allow", [])
    if not isinstance(rules, list):
        raise UsageError(f"{path}: 'allow' is not a list of tables", hint="write [[allow]] above each rule")
    return Policy(tuple(_rule(rule, f"{path}: rule {number}") for number, rule in enumerate(rules, 1)))


def _rule(table: object, what: str) -> Rule:
    if not isinstance(table, dict):
        raise UsageError(f"{what} is not a table", hint="write [[allow]] above each rule")
    _check_keys(table, ("engine", "strata", "destinations", "namespaces", "access", "pull", "history"), what)
    engine = table.get("engine")
    if engine not in ENGINES:
        raise UsageError(f'{what}: engine must be "podman" or "kubernetes"')
    access = table.get("access", "rw")
    if access not in ("ro", "rw"):
        raise UsageError(f'{what}: access must be "ro" or "rw"')
    if engine == PODMAN and "namespaces" in table:
        raise UsageError(f"{what}: namespaces are for Kubernetes")
    return Rule(
        engine=engine,
        strata=_patterns(table, "strata", what),
        destinations=_patterns(table, "destinations", what),
        namespaces=_patterns(table, "namespaces", what),
        read_only=access == "ro",
        pull=_flag(table, "pull", what),
        history=_flag(table, "history", what),
    )


def _flag(table: Mapping[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{what}: {key} must be true or false")
    return value


def _patterns(table: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    value = table.get(key, list(_ALL))
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise UsageError(f"{what}: {key} is not a list of patterns")
    return tuple(value)


def _check_keys(table: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{what}: unknown key {key!r}", hint=f"known keys: {', '.join(known)}")


def _brings_content(volume: Volume) -> bool:
    """Whether a stratum may get something by this volume that is in no stratum yet, be the volume read-only or not."""
    return volume.create_empty or volume.copy_up


def _matches(patterns: Sequence[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _matches_stratum(patterns: Sequence[str], ref: Ref) -> bool:
    by_hash = is_hash_prefix(ref.tag or "") or (ref.worktree is None and is_hash_prefix(ref.name))
    return "*" in patterns if by_hash else _matches(patterns, ref.name)
