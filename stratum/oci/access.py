"""How the places of commits are reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.config import Config


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached.

    ``plain_http`` is the user's explicit wish for HTTP without TLS; ``ca_file`` replaces the system's certificate
    authorities. ``environment`` is where proxies and credential files are looked up. ``token_realms`` is HOST[:PORT]
    of a registry -> URL of another host that gives out its tokens and may be sent its passwords. Times are in seconds;
    ``min_rate``, in bytes a second, is what an answer must keep up with in any ``patience`` seconds.
    """

    insecure_registries: tuple[str, ...] = ()
    plain_http: bool = False
    ca_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_realms: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    patience: float = 180.0
    min_rate: int = 4096

    @classmethod
    def from_config(cls, config: Config, *, plain_http: bool = False, ca_file: str | None = None) -> Access:
        """The access that the settings and a verb's options give."""
        path = Path(ca_file) if ca_file is not None else None
        return cls(config.insecure_registries, plain_http, path, config.environment, config.token_realms)
