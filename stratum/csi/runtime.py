"""The container runtime of the node, by its CRI socket: which containers a pod has, and commands in them.

The kubelet's own calls go the same way, so no right in the API server is needed. Annotations are those that the pod had
when it was started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from stratum.csi.cri_pb2 import (
    CONTAINER_RUNNING,
    SANDBOX_READY,
    ContainerFilter,
    ContainerStateValue,
    ExecSyncRequest,
    ListContainersRequest,
    ListPodSandboxRequest,
    PodSandboxFilter,
    PodSandboxStateValue,
)
from stratum.csi.cri_pb2_grpc import RuntimeServiceStub
from stratum.errors import NotFoundError, StratumError, UnreachableError, UsageError

POD_UID = "io.kubernetes.pod.uid"
"""The label that the kubelet gives all that is a pod's."""

ANSWER_MAX = 1 << 20
"""Bytes of one answer, and so of what a command may print."""

_ANSWER = 10.0
_MORE = 5.0
"""Seconds that the runtime gets to end a command whose own time is over."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that runs. ``sandbox`` is the runtime's ID of it."""

    uid: str
    name: str
    namespace: str
    sandbox: str
    annotations: dict[str, str]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and the bytes that it printed: errors last."""

    exit_code: int
    output: bytes


class Runtime:
    """The runtime that listens at ``endpoint``, ``unix:///PATH``; asked when needed. Threads may share one.

    All that asks raises ``UnreachableError`` where it does not answer, ``StratumError`` with its words where it
    refuses.
    """

    def __init__(self, endpoint: str) -> None:
        path = endpoint.removeprefix("unix://") if endpoint.startswith("unix:///") else ""
        if not path or not path.isprintable():
            raise UsageError(f"the runtime's endpoint {endpoint[:140]!r} is not unix:///PATH")
        self._path = path
        options = (("grpc.max_receive_message_length", ANSWER_MAX), ("grpc.use_local_subchannel_pool", 1))
        self._runtime = RuntimeServiceStub(grpc.insecure_channel(f"unix:{path}", options))  # type: ignore[no-untyped-call]  # generated

    def pod(self, uid: str) -> Pod | None:
        """The pod with that UID, None where it does not run."""
        state = PodSandboxStateValue(state=SANDBOX_READY)
        wanted = PodSandboxFilter(state=state, label_selector={POD_UID: uid})
        request = ListPodSandboxRequest(filter=wanted)
        found = self._ask("list pods", lambda: self._runtime.ListPodSandbox(request, timeout=_ANSWER)).items
        boxes = [box for box in found if box.metadata.uid == uid and box.state == SANDBOX_READY]
        if not boxes:
            return None
        box = max(boxes, key=lambda box: (box.metadata.attempt, box.created_at))
        return Pod(uid, box.metadata.name, box.metadata.namespace, box.id, dict(box.annotations))

    def containers(self, pod: Pod) -> dict[str, str]:
        """Name -> ID of the containers of the pod that run."""
        wanted = ContainerFilter(pod_sandbox_id=pod.sandbox, state=ContainerStateValue(state=CONTAINER_RUNNING))
        return {each: name for name, each in self._running(wanted, pod.sandbox).items()}

    def runs(self, container: str) -> bool:
        """Whether the container with that ID runs."""
        wanted = ContainerFilter(id=container, state=ContainerStateValue(state=CONTAINER_RUNNING))
        return container in self._running(wanted)

    def _running(self, wanted: ContainerFilter, sandbox: str | None = None) -> dict[str, str]:
        """ID -> name."""
        request = ListContainersRequest(filter=wanted)
        found = self._ask("list containers", lambda: self._runtime.ListContainers(request, timeout=_ANSWER)).containers
        return {
            each.id: each.metadata.name
            for each in found
            if each.state == CONTAINER_RUNNING and sandbox in (None, each.pod_sandbox_id)
        }

    def execute(self, container: str, command: Sequence[str], seconds: float) -> Ended:
        """Run ``command`` in the container (its ID), with its user and rights, for ``seconds`` at most.

        ``StratumError`` where it takes longer, and is killed then; ``NotFoundError`` where the container does not run.
        """
        request = ExecSyncRequest(container_id=container, cmd=command, timeout=math.ceil(seconds))
        try:
            done = self._runtime.ExecSync(request, timeout=math.ceil(seconds) + _MORE)
        except grpc.RpcError as exc:
            if exc.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise StratumError(f"did not end within {math.ceil(seconds)} s") from None
            if exc.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise StratumError("printed more than 1 MiB") from None
            if not self.runs(container):
                raise NotFoundError("found its container ended") from None
            raise self._failure("run a command", exc) from None
        return Ended(done.exit_code, done.stdout + done.stderr)

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as exc:
            raise self._failure(what, exc) from None

    def _failure(self, what: str, exc: grpc.RpcError) -> StratumError:
        words = str(exc.details())[:400]
        if exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return UnreachableError(
                f"the container runtime at {self._path} does not answer: {words}",
                hint="--cri-endpoint names its socket",
            )
        return StratumError(f"the container runtime at {self._path} does not {what}: {words}")
