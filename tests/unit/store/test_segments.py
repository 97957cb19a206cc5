"""Segments of a history's log: where its last whole batch ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.store.segments import whole_end
from stratum.tree.oplog import encode, end_line
from tests.support.effort import examples
from tests.support.operations import work


@given(st.binary(max_size=300), st.integers(0, 3))
@settings(max_examples=examples(100))
def test_where_the_last_batch_ends(rest: bytes, count: int) -> None:
    data = b"".join(encode(r) + end_line(r.n) for r in work(count))
    assert whole_end(data + rest) == len(data)
    assert whole_end(data + b"x" + end_line(9)) == len(data)
    if count:
        assert whole_end(data[:-1]) == len(data) - 1
        assert whole_end(data[:-1] + b"x" + rest) == len(data) - 1
