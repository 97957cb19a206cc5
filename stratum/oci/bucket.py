"""The door to object stores: from a ``Bucket`` to its objects.

``s3``, ``gs``, ``az`` and ``memory`` go through obstore (``bucketremote``), ``file`` does not (``bucketdir``).
"""

from __future__ import annotations

from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketstore import ABSENT, ALWAYS, Absent, Always, BucketStore, Entry, Match, When

__all__ = ["ABSENT", "ALWAYS", "Absent", "Always", "BucketStore", "Entry", "Match", "When", "open_bucket"]


def open_bucket(bucket: Bucket, access: Access) -> BucketStore:
    """The objects in ``bucket``. Nothing is asked for yet.

    Raises ``UnsupportedError`` where obstore is missing, ``UsageError`` and ``StratumError`` for settings and
    credentials that cannot be used, and where the store may not be reached without TLS.
    """
    if bucket.scheme == "file":
        from stratum.oci.bucketdir import DirectoryBucket

        return DirectoryBucket(bucket)
    from stratum.oci.bucketremote import RemoteBucket, memory_of

    if bucket.scheme == "memory":
        return RemoteBucket(bucket, memory_of(bucket), access)
    from stratum.oci.bucketkeys import client_of

    return RemoteBucket(bucket, client_of(bucket, access), access)
