"""Pods around a commit of what they write: their own commands before and after it, and standing still while it is read.

Who writes a pod's specification chooses the commands (``hooks``), and they run in that pod's containers only: the pods
are those that the volume is mounted for by the kubelet, and the runtime says which containers they have. What is to
run after a commit is on record before the first command runs, so that it does also where the driver is killed.

To stand still, a pod is frozen as a whole (``sys.freezer``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from stratum.csi import mounts
from stratum.csi.driver import Driver
from stratum.csi.errors import CallError, aborted, precondition
from stratum.csi.hooks import Hooks, parse_hooks
from stratum.csi.records import AfterRecord
from stratum.csi.runtime import Pod, Runtime
from stratum.errors import NotFoundError, StratumError, UnreachableError, quoted
from stratum.sys.freezer import Cgroup, cgroups_of, frozen_cgroups
from stratum.sys.mountinfo import MountEntry

STILL = 60
"""Seconds that pods stand still at most."""

_PATIENCE = 10.0
_AGAIN = 10.0
_WORDS = 600
"""Bytes of what a command printed last that are told: in a gRPC status, of which 8 KiB arrive, each takes up to 9."""
_POD_DIRECTORY = re.compile(r"pods/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/volumes/")
_POD_CGROUP = re.compile(r"(?:.+-)?pod([A-Za-z0-9._]+)\.slice|pod([A-Za-z0-9._-]+)")
"""By systemd, which has no '-' in a name, and by the kubelet itself."""
_log = logging.getLogger(__name__)


def pod_at(driver: Driver, path: Path | str) -> str | None:
    """The UID of the pod whose directory of volumes ``path`` is in; None where it is in none."""
    below = str(path).removeprefix(f"{driver.options.kubelet_dir}/")
    match = _POD_DIRECTORY.match(below)
    return match[1] if match else None


def writers(driver: Driver, volume_id: str) -> set[str]:
    """The UIDs of the pods that have the volume published to write to it."""
    found = (pod_at(driver, entry.mountpoint) for entry in mounts.published(driver, volume_id) if _is_writable(entry))
    return {uid for uid in found if uid is not None}


def _is_writable(entry: MountEntry) -> bool:
    return "ro" not in entry.options.split(",")


@contextlib.contextmanager
def quiesced(driver: Driver, pods: Collection[str], *, demanded: bool = False) -> Iterator[None]:
    """Run what the annotations of ``pods`` (their UIDs) say around the block, where the driver has a runtime to ask.

    A pod that has ended, or whose container has, is none to ask. Where a command after the block fails, the log says
    so.

    FAILED_PRECONDITION where a command before it fails, with what that printed, or where one is ``demanded`` of each
    pod and is not there; UNAVAILABLE where the runtime does not answer. The block is not run then.
    """
    with ExitStack() as stack:
        runtime = driver.runtime
        if runtime is None and demanded and pods:
            raise precondition(
                "pods can only be asked to hold still where the driver knows the container runtime",
                hint="--cri-endpoint names its socket",
            )
        if runtime is not None:
            for uid in sorted(pods):
                stack.enter_context(driver.locked("pod", uid))
                stack.enter_context(_asked(driver, runtime, uid, demanded))
        yield


@contextlib.contextmanager
def asked_kindly(driver: Driver, uid: str | None) -> Iterator[None]:
    """As ``quiesced`` of one pod that is about to end, for what must not wait for it: what fails goes to the log, and
    the block is run."""
    with ExitStack() as stack:
        try:
            stack.enter_context(quiesced(driver, {uid} if uid is not None else ()))
        except StratumError as exc:
            _log.warning("the last commit is made all the same: %s", exc.message)
        yield


@contextlib.contextmanager
def still(driver: Driver, pods: Collection[str]) -> Iterator[None]:
    """Have nothing in ``pods`` run during the block. ABORTED and ``BusyError`` where that is not to be had now,
    ``StratumError`` where the block took too long for it."""
    with ExitStack() as stack:
        if pods:
            stack.enter_context(driver.locked("still", *pods))
            cgroups = _cgroups(driver, frozenset(pods))
            stack.enter_context(frozen_cgroups(cgroups, patience=_PATIENCE, longest=STILL))
            stack.callback(_say_how_long, pods, time.monotonic())
        yield


def _cgroups(driver: Driver, pods: Collection[str]) -> list[Cgroup]:
    """The cgroups of pods: as the kubelet names them, or of their containers as the runtime does."""
    found = cgroups_of(lambda name: pod_of_cgroup(name) in pods)
    known = {pod_of_cgroup(os.path.basename(cgroup.directory)) for cgroup in found}
    for uid in sorted(set(pods) - known):
        ids = _containers(driver.runtime, uid)
        containers = cgroups_of(partial(_names_one, ids)) if ids else []
        if ids is None or len(containers) < len(ids):
            raise aborted(f"pod {uid} has the volume, and there is no cgroup of it by which it could be paused")
        found += containers
    return found


def _containers(runtime: Runtime | None, uid: str) -> list[str] | None:
    """The IDs of the containers of a pod that run; None where nobody can tell."""
    if runtime is None:
        return None
    pod = runtime.pod(uid)
    return list(runtime.containers(pod).values()) if pod is not None else []


def _names_one(ids: Collection[str], cgroup: str) -> bool:
    return any(each in cgroup for each in ids)


def _say_how_long(pods: Collection[str], since: float) -> None:
    fields = {"pods": sorted(pods), "seconds": round(time.monotonic() - since, 3)}
    _log.info("pods stood still", extra={"fields": fields})


def pod_of_cgroup(name: str) -> str | None:
    """The UID of the pod that a cgroup of this name is of; None where it is of none."""
    match = _POD_CGROUP.fullmatch(name)
    return (match[2] or match[1].replace("_", "-")) if match else None


# Commands


@contextlib.contextmanager
def _asked(driver: Driver, runtime: Runtime, uid: str, demanded: bool) -> Iterator[None]:
    """Run the commands of one pod, whose lock is held, around the block."""
    finish(driver, runtime, uid)
    pod = runtime.pod(uid)
    if pod is None:
        yield
        return
    try:
        hooks = parse_hooks(pod.annotations)
        name = hooks.choose(containers := runtime.containers(pod)) if hooks is not None else None
    except CallError as exc:
        raise precondition(f"pod {pod}: {exc.message}", hint=exc.hint) from None
    if demanded and (hooks is None or hooks.before is None or name is None):
        raise precondition(f"pod {pod} has no command that runs before a commit", hint="or let pods be paused")
    if hooks is None or name is None:
        yield
        return
    record = _record(pod, containers[name], hooks) if hooks.after is not None else None
    if record is not None:
        driver.afters.put(record)
    try:
        _before(runtime, pod, name, containers[name], hooks)
        yield
    finally:
        if record is not None:
            _after(driver, runtime, record)


def _before(runtime: Runtime, pod: Pod, name: str, container: str, hooks: Hooks) -> None:
    if hooks.before is None:
        return
    try:
        failure = _failure(runtime, container, hooks.before, hooks.seconds)
    except NotFoundError:  # the pod ends, and writes no more
        return
    if failure is not None:
        command = quoted(hooks.before[-1] if hooks.before[:2] == ("/bin/sh", "-c") else " ".join(hooks.before))
        raise precondition(f"the command before the commit, {command} in container {name} of pod {pod}, {failure}")


def _failure(runtime: Runtime, container: str, command: Sequence[str], seconds: float) -> str | None:
    """Run a command; how it failed, in words, or None. ``NotFoundError``, ``UnreachableError``."""
    try:
        ended = runtime.execute(container, command, seconds)
    except (NotFoundError, UnreachableError):
        raise
    except StratumError as exc:
        return exc.message
    if ended.exit_code == 0:
        return None
    words = " ".join(ended.output[-_WORDS:].decode("utf-8", "replace").split())
    return f"ended with exit code {ended.exit_code}{f': {words}' if words else ''}"


# What runs afterwards


def _record(pod: Pod, container: str, hooks: Hooks) -> AfterRecord:
    return AfterRecord(
        key=container[:128],
        pod=pod.uid,
        name=str(pod),
        container=container,
        command=json.dumps(hooks.after),
        seconds=int(hooks.seconds),
    )


def _after(driver: Driver, runtime: Runtime, record: AfterRecord) -> None:
    """Run what a record says, and forget it. Where the runtime does not answer it stays, and is tried again."""
    try:
        command = json.loads(record.command)
        failure = _failure(runtime, record.container, command, record.seconds)
    except NotFoundError:  # the container ended, and what it had stopped with it
        failure = None
    except StratumError as exc:
        _log.warning("the command after the commit, in pod %s, waits: %s", record.name, exc.message)
        return
    if failure is not None:
        _log.warning("the command after the commit, in pod %s, %s", record.name, failure)
    driver.afters.remove(record.key)


def finish(driver: Driver, runtime: Runtime, uid: str) -> None:
    """Run what a commit that was cut short has left to run in the pod, whose lock is held."""
    for record in driver.afters.scan()[0]:
        if record.pod == uid:
            _after(driver, runtime, record)


def start(driver: Driver) -> None:
    """Run in the background what a killed driver has left to run in pods, until all of it has."""
    threading.Thread(target=_loop, args=(driver,), daemon=True, name="afterwards").start()


def _loop(driver: Driver) -> None:
    while True:
        try:
            left = {record.pod for record in driver.afters.scan()[0]}
            runtime = driver.runtime
            if runtime is None:
                if left:
                    _log.warning("commands wait to be run in pods after a commit, and --cri-endpoint is not given")
                return
            for uid in left:
                with contextlib.suppress(CallError), driver.locked("pod", uid):
                    finish(driver, runtime, uid)
        except Exception:  # the thread has to live
            _log.exception("what is to run after commits is not looked at")
        time.sleep(_AGAIN)
