"""What is said of commits that are not here whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratum.cli.output import human_size, safe

if TYPE_CHECKING:
    from stratum.api.residing import Residing


def residing_text(found: Residing) -> str:
    """In one line: ``3.2 GiB real, 96.8 GiB unreal at reg.example/app``, and what of that is away since when."""
    counts = found.counts
    text = f"{human_size(counts.real_bytes)} real, {human_size(counts.unreal_bytes)} unreal"
    text += f" at {', '.join(map(safe, found.places))}" if found.places else ""
    text += f", {human_size(counts.lost_bytes)} lost" if counts.lost else ""
    for away in found.away:
        since = f" since {safe(away.since)}" if away.since else ""
        text += f"; {safe(away.place)} is {safe(away.state)}{since}" + (f": {safe(away.error)}" if away.error else "")
    return text


def residing_json(found: Residing | None) -> dict[str, Any] | None:
    """For programs; None for a commit that is here whole."""
    if found is None:
        return None
    counts = found.counts
    return {
        "real": {"objects": counts.real, "bytes": counts.real_bytes},
        "unreal": {"objects": counts.unreal, "bytes": counts.unreal_bytes},
        "lost": {"objects": counts.lost, "bytes": counts.lost_bytes},
        "places": [safe(place) for place in found.places],
        "away": [
            {
                "place": safe(away.place),
                "state": safe(away.state),
                "since": away.since and safe(away.since),
                "error": away.error and safe(away.error),
            }
            for away in found.away
        ],
    }
