"""What of a partial commit is here, where the rest is, and whether that can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError
from stratum.frozen import field, frozen

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store.residence import ResidenceCounts


@frozen
class Away:
    """A place that those who fetch find in trouble: how (a word), since when (RFC 3339, where known), and why."""

    place: str
    state: str
    since: str | None
    error: str | None


@frozen
class Residing:
    """``counts`` of a commit's objects; ``places`` that have what is unreal, and those of them that are ``away``."""

    counts: ResidenceCounts
    places: list[str]
    away: list[Away] = field(default_factory=list)


class Residings:
    """Of the commits of one session's store, each looked at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, Residing | None] = {}
        self._away: dict[str, Away] | None = None

    def of(self, commit: str) -> Residing | None:
        """What of the commit is here; None for one that is here whole, or cannot be read."""
        if commit not in self._known:
            is_partial = self._session.store.sources.is_partial(commit)
            self._known[commit] = self._look(commit) if is_partial else None
        return self._known[commit]

    def _look(self, commit: str) -> Residing | None:
        store = self._session.store
        try:
            counts = store.residence.counts(commit)
            places = list(dict.fromkeys(source.place for source in store.sources.of(commit) if source.gone is None))
        except DamagedError:  # a check tells; this is not the place
            return None
        return Residing(counts, places, [self._trouble[place] for place in places if place in self._trouble])

    @property
    def _trouble(self) -> dict[str, Away]:
        """The places that are away, as whoever fetches for mounts sees it."""
        if self._away is None:
            from stratum.api.cache import gates

            self._away = {}
            for gate in gates(self._session)[0]:
                fetcher = gate.get("fetcher")
                for source in fetcher.get("sources", ()) if isinstance(fetcher, dict) else ():
                    if source.get("state") != "ok":
                        found = _away(source)
                        self._away[found.place] = found
        return self._away


def _away(source: dict[str, Any]) -> Away:
    place = str(source.get("reference", "")).rpartition("@")[0]
    since, error = source.get("since"), source.get("error")
    return Away(place, str(source.get("state")), since and str(since), error and str(error))
