"""Files as single objects of an object store: archives that are written to it and read from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stratum.api.session import Session

if TYPE_CHECKING:
    from stratum.oci.access import Access
    from stratum.oci.target import Target

_PIECE = 8 << 20


@contextmanager
def fetched_object(session: Session, target: Target, access: Access) -> Iterator[str | None]:
    """The path of a file with the object that ``target`` names (its tag does not count), for the length of the block;
    None where there is no such object, as where it is the prefix of a place.

    The kernel removes the file: archives are read at many places. Raises ``StratumError`` in the store's words.
    """
    from tempfile import TemporaryFile

    from stratum.oci.bucket import open_bucket
    from stratum.oci.bucketstore import is_key
    from stratum.store.layout import storing
    from stratum.sys.atomic import write_all

    assert target.bucket is not None
    above, _, key = target.bucket.prefix.rpartition("/")
    with open_bucket(replace(target.bucket, prefix=above), access) as bucket:
        if not is_key(key) or bucket.head(key) is None:
            yield None
            return
        with session.create_store().begin(f"reading {target.bucket}") as tx, TemporaryFile(dir=tx.directory) as file:
            for piece in bucket.read(key):
                with storing("keep what comes from an object store"):
                    write_all(file.fileno(), piece)
            yield f"/proc/self/fd/{file.fileno()}"


def put_object(
    session: Session, target: Target, access: Access, fill: Callable[[Callable[[bytes], None]], None]
) -> int:
    """Make an object, which appears whole, of what ``fill`` writes by the function that it is given; its size.

    It is kept on disk until it is complete, as its size has to be known. Raises ``StratumError`` in the store's words.
    """
    from tempfile import TemporaryFile

    from stratum.oci.bucket import open_bucket
    from stratum.store.layout import storing
    from stratum.sys.atomic import write_all

    assert target.bucket is not None
    above, _, key = target.bucket.prefix.rpartition("/")
    with (
        open_bucket(replace(target.bucket, prefix=above), access) as bucket,
        session.store.begin(f"writing {target.bucket}") as tx,
        TemporaryFile(dir=tx.directory) as file,
    ):

        def write(data: bytes) -> None:
            with storing("keep what goes to an object store"):
                write_all(file.fileno(), data)

        fill(write)
        size = file.seek(0, 2)

        def pieces() -> Iterator[bytes]:
            file.seek(0)
            while piece := file.read(_PIECE):
                yield piece

        bucket.put_stream(key, pieces(), size)
    return size
