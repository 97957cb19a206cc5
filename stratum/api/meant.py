"""Which ref somebody may have meant who wrote one that does not exist."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from stratum.api.workplace import Workplace
from stratum.errors import StratumError, UsageError
from stratum.refs import DEFAULT_TAG, is_name, parse_ref, split_ref_path

_STRATA_MAX = 200
"""In how many strata a tag or worktree without its stratum's name is looked for."""
_COMPARED_MAX = 5000
"""With how many strata, tags or worktrees a name is compared; comparing more takes longer than a hint may."""
_CUTOFF = 0.6
"""How like a name has to be (of 1); less is like everything."""


def names_something(place: Workplace, text: str) -> bool:
    """Whether ``text`` is a ref of a stratum that is there; its tag or worktree need not be."""
    try:
        return place.store.namespaces.exists(parse_ref(split_ref_path(text)[0]).name)
    except UsageError:
        return False


def means_something(place: Workplace, text: str) -> bool:
    """Whether ``text`` is a ref of a commit or worktree that is there; its path is not looked for. Of what is told by
    CHANGEs and moments it is the stratum: to look for more could make a commit."""
    ref = split_ref_path(text)[0]
    if "@" in ref:
        return names_something(place, ref)
    try:
        place.store.resolve(parse_ref(ref))
    except StratumError:
        return False
    return True


def like_stratum(place: Workplace, text: str) -> bool:
    """Whether there is no stratum of the name that ``text`` begins with, and one of nearly that name."""
    name = _parts(split_ref_path(text)[0])[0]
    strata = place.store.names()[:_COMPARED_MAX]
    return is_name(name) and name not in strata and _like(name, strata) is not None


def meant_ref(place: Workplace, text: str) -> str | None:
    """The ref that is there and most like ``text``, which does not exist itself; None where none is.

    Other letters, another case, a tag for a worktree or the other way round, another sign between the two, a tag or
    worktree without its stratum, a path where something is mounted. Raises what opening the store raises.
    """
    mounted = _mounted(place, text)
    if mounted is not None:
        return mounted
    ref, path = split_ref_path(text)
    if path is not None:
        meant = meant_ref(place, ref)
        return f"{meant}:{path}" if meant is not None else None
    name, sign, rest = _parts(text)
    if not is_name(name) or (rest and not is_name(rest)):
        return None
    strata = place.store.names()[:_COMPARED_MAX]
    if name not in strata and not sign:
        named = _without_stratum(place, name, strata[:_STRATA_MAX])
        if named is not None:
            return named
    stratum = name if name in strata else _like(name, strata)
    if stratum is None:
        return None
    found = stratum if not sign else _below(place, stratum, sign, rest)
    return found if found != text else None


def _mounted(place: Workplace, text: str) -> str | None:
    """The ref that a path shows."""
    if not ("/" in text or text in (".", "..")) or not os.path.lexists(text):
        return None
    record = place.state.find_mountpoint(Path(text), inside=True)
    return record.ref if record is not None else None


def _parts(text: str) -> tuple[str, str, str]:
    """The name, the sign after it and what follows."""
    for sign in (":", "+", "@", "/"):
        name, found, rest = text.partition(sign)
        if found:
            return name, sign, rest
    return text, "", ""


def _without_stratum(place: Workplace, name: str, strata: Iterable[str]) -> str | None:
    """The one tag or worktree of any stratum that has this name, but for those that every stratum has."""
    found: list[str] = []
    for stratum in strata:
        found += [ref for ref in _refs(place, stratum) if ref in (f"{stratum}:{name}", f"{stratum}+{name}")]
        if len(found) > 1:
            return None
    return found[0] if found and name != DEFAULT_TAG else None


def _refs(place: Workplace, stratum: str) -> Iterator[str]:
    yield from (f"{stratum}:{tag}" for tag in place.store.tags.names(stratum))
    yield from (f"{stratum}+{worktree}" for worktree in place.store.worktrees.names(stratum))


def _below(place: Workplace, stratum: str, sign: str, rest: str) -> str | None:
    """The tag or worktree of ``stratum`` that is meant: by its name, else by a name like it."""
    refs = list(islice(_refs(place, stratum), _COMPARED_MAX))
    for other in (sign, ":", "+"):
        if f"{stratum}{other}{rest}" in refs:
            return f"{stratum}{other}{rest}"
    kind = sign if sign in ":+" else ":"
    same_kind = [ref[len(stratum) + 1 :] for ref in refs if ref[len(stratum)] == kind]
    like = _like(rest, same_kind)
    return f"{stratum}{kind}{like}" if like is not None else None


def _like(name: str, names: Iterable[str]) -> str | None:
    """That of ``names`` which differs only in its case, or hardly."""
    from difflib import get_close_matches

    folded = {each.casefold(): each for each in names}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=_CUTOFF)
    return folded[close[0]] if close else None
