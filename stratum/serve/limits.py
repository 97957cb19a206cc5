"""How often somebody may ask: so much at once, and so much a second after that."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

_MOST = 10_000
"""Askers that are counted; who has not come for the longest time is forgotten first."""


class Allowance:
    """For each asker ``burst`` turns, of which ``each_second`` come back. For one thread."""

    def __init__(self, each_second: float, burst: float) -> None:
        self._each_second = each_second
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, asker: str) -> float:
        """Seconds until ``asker`` has a turn; 0 where there is one."""
        return max(0.0, (1.0 - self._now(asker)[0]) / self._each_second)

    def take(self, asker: str) -> None:
        """Count one turn."""
        left, now = self._now(asker)
        self._left[asker] = (left - 1.0, now)
        self._left.move_to_end(asker)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)

    def give_back(self, asker: str) -> None:
        """Count one turn less."""
        left, now = self._now(asker)
        self._left[asker] = (min(self._burst, left + 1.0), now)

    def _now(self, asker: str) -> tuple[float, float]:
        now = time.monotonic()
        left, then = self._left.get(asker, (self._burst, now))
        return min(self._burst, left + (now - then) * self._each_second), now


def network_of(host: str) -> str:
    """Who is one asker: an address or, of IPv6, the network of 64 bits that one machine may have all of."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
