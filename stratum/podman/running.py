"""Containers made over Podman's API (podman-py): create, initialise, start, signal, wait, remove."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stratum.errors import ConflictError, NotFoundError, StratumError
from stratum.podman.attach import Attached
from stratum.podman.service import api_error_text, connect

if TYPE_CHECKING:
    from podman.domain.containers import Container


@dataclass(frozen=True, slots=True)
class Request:
    """The container to make. An empty ``command`` is the image's own; ``settings`` are podman-py's names and values for
    what else is not the default (environment, user, ports ...)."""

    image: str
    command: list[str]
    annotations: Mapping[str, str]
    stdin: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class PodmanContainer:
    """One container, made by entering this context manager; it is up to the caller to remove it.

    Every method raises ``StratumError`` with Podman's words.
    """

    def __init__(self, request: Request, runtime_dir: Path, environment: Mapping[str, str]) -> None:
        self._request = request
        self._place = (runtime_dir, environment)
        self._opened = ExitStack()

    def __enter__(self) -> PodmanContainer:
        with ExitStack() as opened:
            self._podman = opened.enter_context(connect(*self._place))
            self._container = self._create()
            self._opened = opened.pop_all()
        self.id = str(self._container.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _create(self) -> Container:
        from podman.errors import ImageNotFound

        request, client = self._request, self._podman.client
        settings = {**request.settings, "annotations": dict(request.annotations), "stdin_open": request.stdin}
        with _words(f"cannot make a container of {request.image}"):
            try:
                return client.containers.create(request.image, list(request.command), **settings)
            except ImageNotFound:
                client.images.pull(request.image)
                return client.containers.create(request.image, list(request.command), **settings)

    def init(self) -> None:
        """Let the runtime set the container up, hooks included; nothing of it runs yet."""
        with _words(f"cannot set up a container of {self._request.image}"):
            self._container.init()

    def attach(self) -> Attached:
        """The container's output, and input if it was asked for; for a container that was not started yet."""
        return Attached(self._podman.url, self.id, stdin=self._request.stdin)

    def start(self) -> None:
        """Start what the container runs."""
        with _words(f"cannot start {self._request.image}"):
            self._container.start()

    def signal(self, number: int) -> None:
        """Send a signal to the first process of the container; nothing where it has ended."""
        with contextlib.suppress(OSError):
            self._container.kill(number)

    def wait(self) -> int:
        """The exit code, once the container has ended."""
        with _words(f"cannot wait for container {self.id[:12]}"):
            return int(self._container.wait())

    def remove(self) -> None:
        """Kill it if it runs, and remove it with what it alone used."""
        with _words(f"cannot remove container {self.id[:12]}"):
            self._container.remove(force=True, v=True)


@contextlib.contextmanager
def _words(what: str) -> Iterator[None]:
    """Errors of the API as those of Stratum."""
    errors: dict[int, Callable[[str], StratumError]] = {404: NotFoundError, 409: ConflictError}
    try:
        yield
    except (OSError, ValueError) as exc:
        status = getattr(getattr(exc, "response", None), "status_code", 0)
        raise errors.get(status, StratumError)(f"{what}: {api_error_text(exc)}") from None
