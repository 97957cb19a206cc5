"""The API server, as far as the populator needs it: claims are watched, and what they name is read.

Requests go through the official client, with objects as they are in JSON: its thousand classes for them would only take
memory. Names come from objects that anybody may have written, and become parts of paths, so each is checked here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kubernetes.config
import kubernetes.watch
import urllib3
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.resource import Resource

from stratum.csi.population import GROUP, KIND, VERSION, Claim, is_name
from stratum.errors import ChangedError, ExistsError, StratumError, UnreachableError, UsageError, quoted
from stratum.store.clock import rfc3339, utc_now

PAGE = 250
WATCHING = 300
"""Seconds after which a watch is begun anew, so that one that has gone silent is noticed."""

_TIMES = (5, 30)
_MESSAGE_MAX = 1024
_GONE = 410
Object = dict[str, Any]


class GoneError(StratumError):
    """The API server has forgotten from where the watch was to go on: claims have to be listed again."""


class Cluster:
    """A connection to the API server, for several threads at once."""

    def __init__(self, kubeconfig: str | None, node: str) -> None:
        """As the service account of the pod, or as ``kubeconfig`` says. ``UsageError`` where neither is there."""
        configuration = Configuration()
        # Authorities of clusters often lack extensions that Python 3.13 began to insist on, and nothing else of
        # Kubernetes does. Chain and host name are verified all the same.
        configuration.disable_strict_ssl_verification = True
        try:
            if kubeconfig is None:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
            else:
                kubernetes.config.load_kube_config(kubeconfig, client_configuration=configuration)
        except (ConfigException, OSError, ValueError) as exc:
            raise UsageError(
                f"no API server is known: {exc}", hint="run it in a pod with a service account, or give --kubeconfig"
            ) from None
        self._node = node
        client = ApiClient(configuration)
        client.user_agent = "stratum-csi-populator"
        # What there is in the API is known, so nothing has to be discovered.
        self._client = DynamicClient(client, discoverer=lambda *_: None)
        self._claims = self._resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", namespaced=True)
        self._volumes = self._resource("", "v1", "PersistentVolume", "persistentvolumes")
        self._secrets = self._resource("", "v1", "Secret", "secrets", namespaced=True)
        self._events = self._resource("", "v1", "Event", "events", namespaced=True)
        self._classes = self._resource("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        self._sources = self._resource(GROUP, VERSION, KIND, "stratumsources", namespaced=True)

    def _resource(self, group: str, version: str, kind: str, name: str, *, namespaced: bool = False) -> Resource:
        return Resource(
            prefix="apis" if group else "api",
            group=group,
            api_version=version,
            kind=kind,
            name=name,
            namespaced=namespaced,
            client=self._client,
        )

    # Reading: None where it is not there

    def claim(self, namespace: str, name: str) -> Object | None:
        """A PersistentVolumeClaim."""
        return self._find(self._claims, name, namespace)

    def volume(self, name: str) -> Object | None:
        """A PersistentVolume."""
        return self._find(self._volumes, name)

    def storage_class(self, name: str) -> Object | None:
        """A StorageClass."""
        return self._find(self._classes, name)

    def source(self, namespace: str, name: str) -> Object | None:
        """A StratumSource."""
        return self._find(self._sources, name, namespace)

    def secret(self, namespace: str, name: str) -> Object | None:
        """A Secret."""
        return self._find(self._secrets, name, namespace)

    def list_claims(self, take: Callable[[Object], None]) -> str:
        """Have ``take`` look at each claim there is, page by page; the version from which a watch goes on."""
        mark: str | None = None
        while True:
            page = self._ask(functools.partial(self._claims.get, limit=PAGE, _continue=mark, **_plain()), self._claims)
            with self._told(self._claims):
                for found in page.get("items") or ():
                    take(found)
                version, mark = str(page["metadata"]["resourceVersion"]), page["metadata"].get("continue")
            if not mark:
                return version

    def watch(self, version: str) -> Iterator[tuple[Object, str]]:
        """Claims that change after ``version``, each with the version from which to go on; ends after a while.

        Raises ``GoneError``, or ``UnreachableError`` where it breaks off.
        """
        watcher = kubernetes.watch.Watch()
        with self._told(self._claims):
            for event in watcher.stream(
                self._claims.get,
                serialize=False,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=WATCHING,
                _request_timeout=(_TIMES[0], WATCHING + _TIMES[1]),
            ):
                found = event["object"]
                yield found, found["metadata"]["resourceVersion"]

    # Writing

    def change_claim(self, claim: Claim, metadata: Mapping[str, Any]) -> Object:
        """Change a claim's metadata. ``ChangedError`` where it is not any more what was read."""
        body = {"metadata": {**metadata, "uid": claim.uid, "resourceVersion": claim.version}}
        path = self._path(self._claims, claim.name, claim.namespace)
        patch = "application/merge-patch+json"
        return self._ask(
            lambda: self._client.request("patch", path, body=body, content_type=patch, **_plain()), self._claims
        )

    def create_volume(self, body: Object) -> None:
        """Make a PersistentVolume. ``ExistsError`` where one has its name."""
        try:
            self._ask(lambda: self._volumes.create(body=body, **_plain()), self._volumes)
        except ChangedError as exc:
            raise ExistsError(exc.message) from None

    def tell(self, claim: Claim, reason: str, message: str, *, warning: bool = False) -> None:
        """Say something about a claim, as an event. The same again counts it. No failure: an event is only told."""
        text = message if len(message) <= _MESSAGE_MAX else f"{message[: _MESSAGE_MAX - 3]}..."
        mark = hashlib.sha256(f"{claim.uid} {reason} {text}".encode()).hexdigest()[:16]
        name, now = f"{claim.name[:200].rstrip('-.')}.{mark}", rfc3339(utc_now())
        involved = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.name, "uid": claim.uid}
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": claim.namespace},
            "involvedObject": {**involved, "namespace": claim.namespace, "resourceVersion": claim.version},
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": text,
            "source": {"component": "stratum-csi-populator", "host": self._node},
            "reportingComponent": GROUP,
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        with contextlib.suppress(StratumError):
            before = self._find(self._events, name, claim.namespace)
            if before is None:
                self._ask(lambda: self._events.create(body=body, namespace=claim.namespace, **_plain()), self._events)
                return
            again = {"count": int(before.get("count") or 0) + 1, "lastTimestamp": now}
            path = self._path(self._events, name, claim.namespace)
            patch = "application/merge-patch+json"
            self._ask(
                lambda: self._client.request("patch", path, body=again, content_type=patch, **_plain()), self._events
            )

    # Requests

    def _path(self, resource: Resource, name: str, namespace: str | None) -> str:
        for part in (name, *((namespace,) if namespace is not None else ())):
            if not is_name(part):
                raise UsageError(f"{quoted(part)} is no name of a {resource.kind}")
        return str(resource.path(name=name, namespace=namespace))

    def _find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        path = self._path(resource, name, namespace)
        try:
            return self._ask(lambda: self._client.request("get", path, **_plain()), resource)
        except _MissingError:
            return None

    def _ask(self, request: Callable[[], Any], resource: Resource) -> Object:
        with self._told(resource):
            answer = request()
        if not isinstance(answer, dict):
            raise UnreachableError(f"the API server's answer about a {resource.kind} is no object")
        return answer

    @contextlib.contextmanager
    def _told(self, resource: Resource) -> Iterator[None]:
        """Say in our own errors what goes wrong in the block."""
        try:
            yield
        except ApiException as exc:
            why = f"the API server answers about a {resource.kind}: {exc.status} {exc.reason}"
            if exc.status == 404:
                raise _MissingError(why) from None
            if exc.status == 409:
                raise ChangedError(why) from None
            if exc.status == _GONE:
                raise GoneError(why) from None
            raise UnreachableError(why) from None
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise UnreachableError(f"the API server cannot be reached: {exc}") from None
        except (KeyError, TypeError, AttributeError) as exc:
            raise UnreachableError(f"the API server's answer about a {resource.kind} makes no sense: {exc!r}") from None


class _MissingError(StratumError):
    """It is not there."""


def _plain() -> dict[str, Any]:
    """Answers as they are in JSON, in time."""
    return {"serializer": lambda _client, found: found, "_request_timeout": _TIMES}
