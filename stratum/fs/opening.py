"""From an address to the commit that it names now."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from stratum.api.session import Session
from stratum.config import load_config
from stratum.fs.opened import Caching, LocalCommit, Opened, open_place, resolve_place
from stratum.oci.target import Target, parse_target
from stratum.refs import parse_ref

if TYPE_CHECKING:
    from stratum.fs.address import Address
    from stratum.oci.access import Access

_COMMITS_MAX = 4


class _Named(NamedTuple):
    """What a tag of a place named, until ``expires``, by the monotonic clock: a manifest (digest, bytes)."""

    expires: float
    manifest: tuple[str, bytes]


class Opener:
    """Opens commits of the store at ``store`` (None: that of the command line) and of places. For all threads.

    ``plain_http``, ``ca_file``, ``endpoint`` and ``region`` say how places are reached, ``caching`` how much is kept of
    what they send, ``expiry`` for how many seconds it is believed what a tag of a place named. ``StratumError`` where
    the settings cannot be read.
    """

    def __init__(
        self,
        store: str | None,
        *,
        plain_http: bool,
        ca_file: str | None,
        endpoint: str | None,
        region: str | None,
        caching: Caching,
        expiry: float,
    ) -> None:
        self.session = Session(load_config(store=store))
        self.caching = caching
        self._plain_http, self._ca_file, self._expiry = plain_http, ca_file, expiry
        self._elsewhere = _query(endpoint, region)
        self._named: dict[str, _Named] = {}
        self._local: dict[str, LocalCommit] = {}

    def access(self) -> Access:
        """How places are reached."""
        return self.session.access(plain_http=self._plain_http, ca_file=self._ca_file)

    def target(self, reference: str) -> Target:
        """The target that the reference of a place is. ``UsageError``."""
        target = parse_target(reference, self.session.config.registry)
        if target.bucket is None or not self._elsewhere or target.bucket.query:
            return target
        return parse_target(f"{reference}{self._elsewhere}")

    def open(self, address: Address) -> Opened:
        """The commit of an address, as it is now. ``StratumError``."""
        if address.place:
            return self.open_place(self.target(address.reference))[0]
        return self.open_local(self.session.store.resolve_commit(parse_ref(address.reference)))

    def open_place(self, target: Target) -> tuple[Opened, str]:
        """A commit of a place, and the digest of its manifest."""
        manifest = self._manifest(target)
        return open_place(target, manifest, self.access, self.caching), manifest[0]

    def open_local(self, commit: str) -> Opened:
        """A commit of the local store."""
        opened = self._local.pop(commit, None) or LocalCommit(self.session, commit, self.caching, self.access)
        self._local[commit] = opened  # without a lock, which a forked process could find held by nobody
        for other in list(self._local)[:-_COMMITS_MAX]:
            self._local.pop(other, None)
        return opened

    def forget(self) -> None:
        """Ask anew what tags of places name."""
        self._named.clear()

    def _manifest(self, target: Target) -> tuple[str, bytes]:
        key, now = str(target), time.monotonic()
        named = self._named.get(key)
        if named is None or (target.digest is None and named.expires <= now):
            named = self._named[key] = _Named(now + self._expiry, resolve_place(target, self.access()))
        return named.manifest


def caching_of(memory: int, directory: str | os.PathLike[str] | None, disk: int) -> Caching:
    """How much is kept, as options say it."""
    return Caching(int(memory), os.path.abspath(directory) if directory is not None else None, int(disk))


def _query(endpoint: str | None, region: str | None) -> str:
    """What a reference to an object store has at its end for these."""
    given = {"endpoint": endpoint, "region": region}
    text = "&".join(f"{key}={value}" for key, value in given.items() if value is not None)
    return f"?{text}" if text else ""
