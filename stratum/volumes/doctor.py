"""``stratum hook doctor``: does everything hold that a container's volumes need? Each finding says how to mend it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stratum.api.session import Session
from stratum.errors import StratumError, UnsupportedError, os_error_text
from stratum.podman import TIMEOUTS
from stratum.podman.install import WHEN, hook_files, is_ours
from stratum.podman.placement import placement_of, refusal
from stratum.podman.places import SYSTEM, places_for, trusted_owners
from stratum.sys.smallfile import who_can_change
from stratum.sys.userns import id_ranges, in_initial_namespace
from stratum.volumes.policy import POLICY_FILE, load_policy

OLDEST_KERNEL = (5, 15)
OLDEST_PODMAN = (4, 0)
CAP_SYS_ADMIN = 21

_INSTALL = "run: stratum hook install"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``detail`` in words, and where it is not ``ok``, ``mend`` says what to do."""

    check: str
    ok: bool
    detail: str
    mend: str = ""


def examine(session: Session, directory: Path | None = None) -> Iterator[Finding]:
    """All checks, one after the other; ``directory`` is where the hook was installed."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("privilege", _privilege),
        ("kernel", lambda: _kernel(session)),
        ("store", lambda: _store(session)),
        ("trial mount", lambda: _trial_mount(session)),
        ("podman", lambda: _podman(session, directory)),
        ("hook", lambda: _hook(session, directory)),
        ("policy", _policy),
    )
    for name, check in checks:
        yield _finding(name, check)


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except StratumError as exc:
        return Finding(name, False, exc.message, exc.hint)
    except OSError as exc:
        return Finding(name, False, f"{exc.filename}: {os_error_text(exc)}" if exc.filename else os_error_text(exc))


def _privilege() -> str:
    status = Path("/proc/self/status").read_text("ascii", errors="replace")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if os.geteuid() == 0 and effective >> CAP_SYS_ADMIN & 1:
        return "root with CAP_SYS_ADMIN" if in_initial_namespace() else _namespace()
    if in_initial_namespace():
        raise UnsupportedError(
            "no user namespace could be made, in which mounting is allowed",
            hint="see what 'podman unshare true' says, or run it as root",
        )
    raise UnsupportedError("this is not root with CAP_SYS_ADMIN, as the hook will be", hint="run it as root")


def _namespace() -> str:
    """What the user namespace that we are in has, in words."""
    ids = min(sum(count for _, _, count in id_ranges(kind)) for kind in ("uid_map", "gid_map"))
    if ids == 1:
        return "a user namespace with one ID: files of others than its user need ranges in /etc/subuid and /etc/subgid"
    return f"a user namespace with {ids} IDs"


def _kernel(session: Session) -> str:
    from stratum.mount.build import kernel_method
    from stratum.mount.plan import Lower

    release = os.uname().release
    if _version(release) < OLDEST_KERNEL:
        raise UnsupportedError(f"Linux {release} is too old", hint="Linux 5.15 or later is needed, 6.15 is best")
    method = session.mount_method or kernel_method()
    names = "" if method.lower is Lower.EROFS else f"; names from {method.lower.value}"
    return f"Linux {release}; layers {method.syntax.value}{names}{'; loop devices' if method.loop_device else ''}"


def _store(session: Session) -> str:
    return f"{session.store.root}, {len(session.store.names())} strata"


def _trial_mount(session: Session) -> str:
    """Mount an empty worktree over an empty commit, detached, on the store's own file system, and write to it."""
    from stratum.composefs.erofs.writer import image_pieces
    from stratum.mount.build import build_detached
    from stratum.mount.plan import MountPlan
    from stratum.tree.model import Directory

    with session.store.begin("trying a mount") as tx:
        place = tx.new_path("trial")
        tx.make_directory(place, 0o700)
        for name in ("objects", "upperdir", "workdir", "tree"):
            tx.make_directory(place / name, 0o700)
        tx.write_pieces(place / "image", image_pieces(Directory(0o40755, 0, 0, 0)))
        layers = place / "image", (place / "objects",), place / "upperdir", place / "workdir"
        plan = MountPlan(*layers, dialect=session.store.dialect, method=session.mount_method, tree=place / "tree")
        mount = build_detached(plan)
        try:
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=mount))
        except OSError as exc:
            raise StratumError(f"a file cannot be written in a mounted worktree: {os_error_text(exc)}") from None
        finally:
            os.close(mount)
    return "a worktree can be mounted and written"


def _podman(session: Session, directory: Path | None) -> str:
    from stratum.podman.program import describe, hook_directories

    environment = session.config.environment
    found = describe(environment)
    if _version(found.version) < OLDEST_PODMAN:
        raise UnsupportedError(f"Podman {found.version} is too old", hint="Podman 4.0 or later is needed")
    about = f"{found.version} with {found.runtime}"
    if directory is not None:
        return f"{about}; to be told: podman --hooks-dir {directory}"
    hooks = _hooks_of(session)
    if hooks not in (hook_directories(environment) or []):
        raise StratumError(f"Podman {found.version} does not read hooks from {hooks}", hint=_INSTALL)
    return f"{about}, reads hooks from {hooks}"


def _hooks_of(session: Session) -> Path:
    """The directory with the hook that is used: a user's own, where there is one, else root's, if Podman reads it."""
    from stratum.podman.program import hook_directories

    environment = session.config.environment
    own = places_for(environment).hooks
    if own != SYSTEM.hooks and not any(path.exists() for path in hook_files(own).values()):
        installed = any(path.exists() for path in hook_files(SYSTEM.hooks).values())
        if installed and SYSTEM.hooks in (hook_directories(environment) or []):
            return SYSTEM.hooks
    return own


def _hook(session: Session, directory: Path | None) -> str:
    from stratum.config import load_config

    place = None
    install = "hook install" if directory is None else f"hook install {directory}"
    hooks = directory or _hooks_of(session)
    for stage, path in hook_files(hooks).items():
        if not is_ours(path):
            raise StratumError(f"{path} is missing", hint=f"run: stratum {install}")
        try:
            table = json.loads(path.read_bytes())
            hook, when = table["hook"], table["when"]
            environment = dict(entry.partition("=")[::2] for entry in hook["env"])
            interpreter, timeout = str(hook["path"]), int(hook["timeout"])
            arguments = [str(argument) for argument in hook["args"][1:-1]]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise StratumError(f"{path} cannot be understood: {exc}", hint=_INSTALL) from None
        if timeout < TIMEOUTS[stage]:
            raise StratumError(f"{path} gives the hook only {timeout} s", hint=_INSTALL)
        if when != WHEN:
            raise StratumError(
                f"{path} is of an earlier version: with a misspelt annotation a container starts without its volume",
                hint=f"run: stratum {install}",
            )
        store = load_config(environment).store
        if store != session.config.store:
            raise StratumError(
                f"{path} is for the store {store}, not {session.config.store}",
                hint=f"run: stratum --store {session.config.store} {install}",
            )
        place = placement_of(interpreter, environment)
        risk = place.risk or who_can_change(str(path), trusted_owners())
        if risk is not None:
            raise refusal(interpreter, risk)
        _try_hook([interpreter, *arguments], environment)
    note = f"; it is gone with the checkout {place.checkout}" if place is not None and place.checkout else ""
    return f"installed in {hooks}{note}"


def _try_hook(command: list[str], environment: dict[str, str]) -> None:
    """Run the hook as an engine would, with a state that is none: it must say so."""
    try:
        done = subprocess.run(
            [*command, "createRuntime"],
            input=b"",
            env=environment,
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError as exc:
        raise StratumError(f"cannot run {command[0]}: {os_error_text(exc)}", hint=_INSTALL) from None
    said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if "state JSON is empty" not in said:
        raise StratumError(f"the hook does not work: {said or f'exit status {done.returncode}'}", hint=_INSTALL)


def _policy() -> str:
    rules = load_policy().rules
    if not rules:
        return f"no rules in {POLICY_FILE}: Podman may mount everything, Kubernetes pods nothing"
    return f"{len(rules)} rules in {POLICY_FILE}"


def _version(text: str) -> tuple[int, int]:
    """The first two numbers of a version; (0, 0) where there are none."""
    numbers = [int(part) for part in text.split("-", maxsplit=1)[0].split(".")[:2] if part.isdecimal()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
