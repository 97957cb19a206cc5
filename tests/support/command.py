"""The ``stratum`` command as users run it, in a process of its own: the installed console script, or a fork of an
interpreter that has loaded it (``tests.support.warm``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.schemas import of_command, problems
from tests.support.small import ADDRESS_SPACE, limited, programs_first
from tests.support.warm import Warm

SCRIPT = Path(sys.executable).with_name("stratum")
_CHECKED_MAX = 1 << 16
"""Characters of JSON that are compared with a schema: more takes long, and has more of the same."""


_servers: dict[int, Warm] = {}
"""Of this process; one that was forked from it needs its own."""


def _warm(environment: dict[str, str]) -> Warm | None:
    """What runs commands with this environment without starting an interpreter; None where a new one might differ."""
    server = _servers.get(os.getpid())
    if server is None:
        server = _servers[os.getpid()] = Warm(SCRIPT, environment)
    return server if server.stands_for(environment) else None


def close_servers() -> None:
    """End what runs commands for this process."""
    server = _servers.pop(os.getpid(), None)
    if server is not None:
        server.close()


class Result(NamedTuple):
    """How a command ended. Output is text; bytes that are not UTF-8 are kept as surrogates."""

    code: int
    stdout: str
    stderr: str


class Command:
    """``stratum`` with a store and a runtime directory of its own: ``command("tag", ref, "v1") -> Result``.

    It runs as on a small machine, with ``address_space`` bytes. ``fresh``: in a new interpreter each time.
    """

    def __init__(
        self, store: Path, runtime_dir: Path, address_space: int = ADDRESS_SPACE, *, fresh: bool = False
    ) -> None:
        self.fresh = fresh
        self.store = store
        self.runtime_dir = runtime_dir
        self.address_space = address_space
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("STRATUM_")}
        self.environment = {
            **inherited,
            "PATH": programs_first(inherited.get("PATH", os.defpath)),
            "STRATUM_STORE": str(store),
            "STRATUM_RUNTIME_DIR": str(runtime_dir),
            "STRATUM_CACHE_MIN_FREE": "0",  # however full the disk is that tests run on
            "NO_COLOR": "1",
        }

    def __call__(
        self,
        *args: str | bytes | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        timeout: float = 120,
    ) -> Result:
        """Run ``stratum ARGS``; ``env`` is added to the environment."""
        environment, given = self.environment | (env or {}), stdin.encode("utf-8", "surrogateescape")
        warm = None if self.fresh else _warm(environment)
        if warm is not None:
            code, out, err = warm.run(
                args,
                cwd=cwd,
                environment=environment,
                stdin=given,
                address_space=self.address_space,
                timeout=timeout,
            )
        else:
            done = subprocess.run(
                limited([SCRIPT, *args], self.address_space),
                cwd=cwd,
                env=environment,
                input=given,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        return Result(code, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape"))

    def ok(self, *args: str | bytes | Path, **kwargs: Any) -> str:
        """Run a command that must succeed; its stdout without the last line break."""
        result = self(*args, **kwargs)
        assert result.code == 0, f"stratum {args}: exit {result.code}\n{result.stdout}{result.stderr}"
        return result.stdout.removesuffix("\n")

    def json(self, *args: str | bytes | Path, **kwargs: Any) -> Any:
        """Run a verb with ``--format json``; the document it printed, which is as the schema of the verb says."""
        text = self.ok("--format", "json", *args, **kwargs)
        document = json.loads(text)
        if len(text) <= _CHECKED_MAX:
            assert not (wrong := problems(of_command(list(map(os.fsdecode, args))), document)), wrong
        return document
