"""A session: the settings in force, the store and the mount state they lead to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from stratum.config import Config
    from stratum.mount.state import State
    from stratum.oci.access import Access
    from stratum.store import Store


class Session:
    """What a verb works in. The store and the state are opened when they are first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store, which must exist (``NotFoundError`` otherwise)."""
        if self._store is None:
            from stratum.store import Store

            self._store = Store.open(self.config.store)
        return self._store

    def create_store(self) -> Store:
        """The store, made first where there is none: for verbs that bring content in."""
        if self._store is None:
            from stratum.store import Store

            self._store = Store.open_or_create(self.config.store)
        return self._store

    @functools.cached_property
    def state(self) -> State:
        """The record of what is mounted."""
        from stratum.mount.state import State

        return State(self.config.runtime_dir)

    def access(self, *, plain_http: bool = False, ca_file: str | None = None) -> Access:
        """How registries are reached by the settings, the environment they came with, and a verb's options."""
        from stratum.oci.access import Access, proxies_in
        from stratum.oci.credentials import find_credentials

        config = self.config
        named = config.environment.get("SSL_CERT_FILE")
        return Access(
            credentials=functools.partial(find_credentials, environment=config.environment),
            insecure_registries=config.insecure_registries,
            plain_http=plain_http,
            ca_file=Path(ca_file) if ca_file is not None else None,
            authorities=(Path(named),) if named else (),
            proxies=proxies_in(config.environment),
            token_realms=config.token_realms,
        )

    def now(self) -> datetime:
        """The time that commits made now carry."""
        from stratum.store.clock import commit_time

        return commit_time(self.config.environment)
