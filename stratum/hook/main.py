"""Entry point of the OCI hook: ``stratum-hook createRuntime|poststop`` with the container's state on stdin.

A hook's only ways to speak are its exit status, where anything but 0 at createRuntime stops the container's start,
and one line on stderr. runc shows that line; crun shows the status only, and nobody reads what a hook says at poststop:
so every line goes to the system log too.

The surroundings are the caller's: working directory and umask are set, the environment is what the JSON file of the
hook says, and an alarm rings before the engine's own time limit, so that a hook that is too slow says so.

Of a user's Podman, the hook is 0 in Podman's user namespace, and all the world's other files are nobody's; the store is
the user's own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from stratum.errors import StratumError, UsageError, one_line
from stratum.podman import CREATE_RUNTIME, POSTSTOP, TIMEOUTS
from stratum.sys.loading import load_pathlib

if TYPE_CHECKING:
    from stratum.api.session import Session

_MARGIN = 0.9
_PATIENCE = 0.8
"""How much of its time limit the stop of a container waits for whoever has the store or the worktree locked."""
_STDIN = 0
_MOVING = 10.0


class TimedOutError(StratumError):
    """The hook took as long as it may."""


def run() -> NoReturn:
    """Run one stage, and end with its exit status."""
    from stratum.sys.ending import end

    end(main())


def main(argv: list[str] | None = None) -> int:
    """Run one stage; the exit status. ``argv`` are the arguments without the program's name."""
    gc.set_threshold(200_000, 20, 50)  # as the command line does: the container waits
    load_pathlib()
    args = sys.argv[1:] if argv is None else argv
    sys.excepthook = _report_defect
    try:
        stage = _stage(args)
        os.chdir("/")
        os.umask(0o022)
        _start_alarm(stage)
        return create_runtime() if stage == CREATE_RUNTIME else poststop()
    except StratumError as exc:
        _say(exc)
        return exc.exit_code
    except MemoryError:
        _say(StratumError("out of memory"))
        return 1


def create_runtime() -> int:
    """Mount the volumes that the annotations of the container on stdin name; 0, or ``StratumError``."""
    from stratum.hook.ocistate import read_bundle, read_state
    from stratum.volumes.policy import caller_of, load_policy
    from stratum.volumes.request import parse_volumes

    state = read_state(_STDIN)
    volumes = parse_volumes(state.annotations)
    if not volumes:
        return 0
    policy, caller = load_policy(), caller_of(state.annotations)
    for volume in volumes:
        policy.check(caller, volume)

    from stratum.api.healing import heal_by_the_way
    from stratum.api.session import Session
    from stratum.config import load_config
    from stratum.hook.volumes import ContainerVolumes
    from stratum.sys.userns import is_privileged

    session = Session(load_config())
    session.tell = _log
    container = ContainerVolumes(session, state, read_bundle(state.bundle))
    container.mount(volumes)
    # What serves a user's mount would be a child of this container's monitor, which waits for its children.
    healed = heal_by_the_way(session) if is_privileged() else []
    for line in [*container.warnings, *healed]:
        _log(line)
    return 0


def poststop() -> int:
    """Commit what the stopped container on stdin held, and what earlier ones left; 0 or the first failure's status.

    May be called any number of times for one container, with or without createRuntime before.
    """
    from stratum.api.session import Session
    from stratum.config import load_config
    from stratum.hook.ocistate import read_state
    from stratum.hook.scratch import remove_scratch
    from stratum.store.holders import Container
    from stratum.volumes.grant import reconcile

    state = read_state(_STDIN)
    session, holder = Session(load_config()), Container(state.id)
    session.tell = _log
    failure = 0
    for released in reconcile(session, ended=holder, patience=TIMEOUTS[POSTSTOP] * _PATIENCE):
        if released.error is not None:
            _say(released.error, about=f"{released.name}+{released.worktree}")
            if released.holder == holder:
                failure = failure or released.error.exit_code
        elif released.note is not None:
            _log(released.note)
    remove_scratch(state.bundle)
    session.state.of_holder(holder)  # reading them drops those that are gone
    _let_monitor_end(session, state.id)
    return failure


def _let_monitor_end(session: Session, container: str) -> None:
    """The container's monitor waits for its children, of which a keeper that was started for the container is one."""
    from contextlib import suppress

    runtime_dir, request = session.config.runtime_dir, {"op": "move", "container": container}
    sockets = [name for name in os.listdir(runtime_dir) if name.endswith(".sock")] if runtime_dir.is_dir() else []
    if not sockets:
        return
    from stratum.mount.gate import ask_keeper

    with suppress(StratumError):
        ask_keeper(runtime_dir, request)
    if any(name.startswith("watch-") for name in sockets):
        from stratum.history.wire import ask

        with suppress(StratumError, OSError):
            ask(runtime_dir, session.store.root, request, timeout=_MOVING)


def _stage(args: list[str]) -> str:
    if len(args) != 1 or args[0] not in TIMEOUTS:
        raise UsageError(
            "this is the OCI hook; its one argument is createRuntime or poststop",
            hint="'stratum hook install' makes container engines call it",
        )
    return args[0]


def _start_alarm(stage: str) -> None:
    limit = TIMEOUTS[stage] * _MARGIN

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TimedOutError(f"the {stage} hook did not finish within {limit:.0f} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)


def _report_defect(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """For what nobody foresaw, or an installation that is broken: one line here too, the traceback in the log."""
    import traceback

    sys.stderr.write(f"stratum: internal error: {one_line(f'{kind.__name__}: {value}')}\n")
    for line in "".join(traceback.format_exception(kind, value, trace)).splitlines():
        _log(line)


def _say(error: StratumError, *, about: str = "") -> None:
    text = f"{about}: {error.message}" if about else error.message
    line = one_line(f"{text} ({error.hint})" if error.hint else text)
    sys.stderr.write(f"stratum: {line}\n")
    _log(line)


def _log(text: str) -> None:
    import syslog

    syslog.openlog("stratum-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, one_line(text))
