"""Pages of lists: the token is the place of the last entry in the order of creation, so no entry is shown twice or
left out when others come and go between two pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from stratum.csi.errors import aborted, invalid
from stratum.csi.records import SnapshotRecord, VolumeRecord

_TOKEN = re.compile(r"([0-9]{1,20})/(.+)")

R = TypeVar("R", VolumeRecord, SnapshotRecord)


class Page(NamedTuple, Generic[R]):
    """Records and the token of the next page, empty after the last."""

    records: Sequence[R]
    next_token: str


def page(records: Sequence[R], maximum: int, token: str) -> Page[R]:
    """The page that ``token`` begins of ``records``, which are in order. ``maximum`` 0 is all the rest.

    INVALID_ARGUMENT for a negative maximum, ABORTED for a token that none of these lists gave out.
    """
    if maximum < 0:
        raise invalid(f"max_entries is {maximum}")
    if token:
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise aborted("the starting token is not one of this list; start over without it")
        after = (int(match[1]), match[2])
        records = [record for record in records if (record.created, record.key) > after]
    if maximum and len(records) > maximum:
        last = records[maximum - 1]
        return Page(records[:maximum], f"{last.created}/{last.key}")
    return Page(records, "")
