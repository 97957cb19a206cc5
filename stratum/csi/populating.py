"""The populator of a node: claims with a StratumSource get their volumes from the driver, and a PersistentVolume each.

It remembers nothing: each look at a claim begins with what the API server and the driver have. Before the driver is
asked for a volume the claim gets a finalizer with the node's name, and loses it when a PersistentVolume tells of the
volume, or the volume is removed again. So whatever is killed when, the claim itself says that something may be left,
and who is to see to it; and one that is deleted meanwhile waits for that.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from stratum.csi import csi_pb2 as csi
from stratum.csi import csi_pb2_grpc
from stratum.csi.agenda import Agenda, Key
from stratum.csi.cluster import Cluster, GoneError
from stratum.csi.patterns import SourcePattern
from stratum.csi.population import (
    KIND,
    Claim,
    Source,
    Work,
    check_class,
    check_source,
    finalizer_of,
    held,
    is_elsewhere,
    is_volume_of,
    read_claim,
    read_secret,
    read_source,
    request_for,
    volume_for,
    without,
    work_of,
)
from stratum.csi.records import key_for
from stratum.errors import ChangedError, ConflictError, ExistsError, NotFoundError, StratumError

CALL = 60.0
"""Seconds that the driver gets for a call; it answers that it is still at work long before."""

AT_REST = 30.0
"""Seconds after which a call whose caller is gone has ended, in the driver and in the API server."""

SOON = 1.0
PAGE = 200
_AGAIN = {grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED}
_log = logging.getLogger(__name__)


class RefusalError(StratumError):
    """The driver's answer is not the one that was asked for."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        super().__init__(str(error.details()))


class Node:
    """The driver of this node, at its socket."""

    def __init__(self, endpoint: str) -> None:
        channel = grpc.insecure_channel(endpoint, [("grpc.max_reconnect_backoff_ms", 2000)])
        self._controller = csi_pb2_grpc.ControllerStub(channel)  # type: ignore[no-untyped-call]  # generated
        stub = csi_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]  # generated
        info = stub.NodeGetInfo(csi.NodeGetInfoRequest(), wait_for_ready=True)
        self.name: str = info.node_id
        self.where: csi.Topology = info.accessible_topology

    def create(self, request: csi.CreateVolumeRequest) -> csi.Volume:
        """CreateVolume."""
        with _refusals():
            volume: csi.Volume = self._controller.CreateVolume(request, timeout=CALL).volume
            return volume

    def remove(self, name: str) -> None:
        """Remove what CreateVolume made for ``name``, if anything."""
        ending, mark = f"+{key_for(name, 'vol')}", ""
        with _refusals():
            while True:
                request = csi.ListVolumesRequest(max_entries=PAGE, starting_token=mark)
                page = self._controller.ListVolumes(request, timeout=CALL)
                for volume in (entry.volume.volume_id for entry in page.entries):
                    if volume.endswith(ending):
                        self._controller.DeleteVolume(csi.DeleteVolumeRequest(volume_id=volume), timeout=CALL)
                        return
                mark = page.next_token
                if not mark:
                    return


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as exc:
        raise RefusalError(exc) from None


class Populator:
    """What is done about claims on one node."""

    def __init__(self, cluster: Cluster, node: Node, patterns: tuple[SourcePattern, ...]) -> None:
        self._cluster, self._node, self._patterns = cluster, node, patterns
        self._started = time.monotonic()
        self._unsure: dict[str, float] = {}
        """Claims' UIDs -> when a call for them was given up that may be at work still."""

    def look(self, key: Key) -> float | None:
        """Do for the claim NAMESPACE, NAME what is to be done; seconds until the next look, or None.

        What fails is told as an event of the claim, and raised.
        """
        found = self._cluster.claim(*key)
        claim = read_claim(found) if found is not None else None
        if claim is None:
            return None
        work = work_of(claim, self._node.name)
        if work == Work.NONE:
            return None
        try:
            if work == Work.LOOK:
                # For a class that binds at once nobody will ever select a node.
                check_class(claim, self._cluster.storage_class(claim.storage_class))
                return None
            return self._fill(claim) if work == Work.FILL else self._clear(claim)
        except ChangedError:
            return SOON  # somebody changed the claim meanwhile: it is read anew
        except StratumError as exc:
            self._cluster.tell(claim, "PopulatingFailed", f"{self._node.name}: {exc.told}", warning=True)
            raise

    def _fill(self, claim: Claim) -> float | None:
        if is_volume_of(self._cluster.volume(claim.volume_name), claim):
            return self._clear(claim)
        storage_class = check_class(claim, self._cluster.storage_class(claim.storage_class))
        source, secrets = self._source(claim)
        request = request_for(claim, storage_class, source, secrets, self._node.where)
        if finalizer_of(self._node.name) not in claim.finalizers:
            self._cluster.tell(claim, "Populating", f"node {self._node.name} fetches {source.text}")
            changed = read_claim(self._cluster.change_claim(claim, held(claim, self._node.name)))
            if changed is None:
                return SOON
            claim = changed
        try:
            made = self._node.create(request)
        except RefusalError as exc:
            return self._refused(claim, exc)
        try:
            self._cluster.create_volume(volume_for(claim, storage_class, source, made))
        except ExistsError:
            there = self._cluster.volume(claim.volume_name)
            if not is_volume_of(there, claim):
                raise ConflictError(f"PersistentVolume {claim.volume_name} exists, and is not this claim's") from None
            if is_elsewhere(there, self._node.where):  # two nodes were selected, one after the other
                return self._clear(claim)
        self._cluster.tell(claim, "Populated", f"it begins as {source.text}")
        self._let_go(claim)
        return None

    def _source(self, claim: Claim) -> tuple[Source, Mapping[str, str]]:
        """What the claim begins as, and the secret for that: of what the claim's namespace has."""
        found = self._cluster.source(claim.namespace, claim.source)
        if found is None:
            raise NotFoundError(f"there is no {KIND} {claim.source} in namespace {claim.namespace}")
        source = read_source(found)
        check_source(source, self._patterns)
        if source.secret is None:
            return source, {}
        secret = self._cluster.secret(claim.namespace, source.secret)
        if secret is None:
            raise NotFoundError(f"there is no secret {source.secret} in namespace {claim.namespace}")
        return source, read_secret(secret)

    def _refused(self, claim: Claim, exc: RefusalError) -> float | None:
        """The driver did not make the volume."""
        if exc.code in _AGAIN:
            return SOON
        if exc.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._cluster.tell(claim, "PopulatingFailed", f"{self._node.name}: {exc.told}", warning=True)
            self._node.remove(claim.volume_name)
            self._cluster.change_claim(claim, without(claim, self._node.name, reschedule=True))
            return None
        if exc.code == grpc.StatusCode.ALREADY_EXISTS:
            # The source says something else than it did. Nobody has had the volume yet.
            self._node.remove(claim.volume_name)
            return SOON
        if exc.code == grpc.StatusCode.DEADLINE_EXCEEDED:
            self._unsure[claim.uid] = time.monotonic()
        raise exc

    def _clear(self, claim: Claim) -> float | None:
        """The claim is not to be filled here any more. What has a PersistentVolume is no longer ours to remove; one of
        another node is of another volume, though of the same name."""
        volume = self._cluster.volume(claim.volume_name)
        if is_volume_of(volume, claim):
            is_left = finalizer_of(self._node.name) in claim.finalizers and is_elsewhere(volume, self._node.where)
        else:
            is_left = not claim.volume
        if is_left:
            rest = max(self._started, self._unsure.get(claim.uid, 0.0)) + AT_REST - time.monotonic()
            if rest > 0:
                return rest
            self._node.remove(claim.volume_name)
        self._let_go(claim)
        return None

    def _let_go(self, claim: Claim) -> None:
        self._unsure.pop(claim.uid, None)
        if finalizer_of(self._node.name) in claim.finalizers:
            self._cluster.change_claim(claim, without(claim, self._node.name))


def work_off(agenda: Agenda, populator: Populator) -> None:
    """Look at what is due, for ever."""
    while True:
        _work_on(agenda.take(), agenda, populator)


def _work_on(key: Key, agenda: Agenda, populator: Populator) -> None:
    try:
        again = populator.look(key)
    except StratumError as exc:
        _log.warning("%s/%s: %s", *key, exc.told)
        agenda.failed(key)
    except Exception:  # the thread has to live; the next look is at what is there then
        _log.exception("%s/%s", *key)
        agenda.failed(key)
    else:
        agenda.done(key, again)


def follow(cluster: Cluster, agenda: Agenda, node: str) -> None:
    """Note each claim that concerns the node when it changes, for ever."""

    def take(found: Mapping[str, Any]) -> None:
        claim = read_claim(found)
        if claim is not None and work_of(claim, node) != Work.NONE:
            agenda.note((claim.namespace, claim.name))

    version, pause = "", SOON
    while True:
        told = None
        try:
            version = version or cluster.list_claims(take)
            for found, since in cluster.watch(version):
                version, pause = since, SOON
                take(found)
        except GoneError:
            version = ""
        except StratumError as exc:
            told = exc.told
        if told is not None:
            _log.warning("%s", told)
            time.sleep(pause)
            pause = min(2 * pause, CALL)
