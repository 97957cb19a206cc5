"""Content stores by their names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.c4.ids import C4Id
    from stratum.content.base import ContentStore


def open_content_store(
    where: str | os.PathLike[str], *, create: bool = True, tree: bool = False, unsafe_concurrent: bool = False
) -> ContentStore[C4Id]:
    """The content store in a directory or, for ``s3://BUCKET[/PREFIX]``, ``gs://``, ``az://``, ``file://`` and
    ``memory://``, in an object store, which is reached by the settings and the environment.

    A directory is made where there is none, unless ``create`` is false: then ``NotFoundError``. ``tree`` and
    ``unsafe_concurrent`` are of object stores: contents as ``TreeStore`` lays them out, and writing to one that heeds
    no conditions. Raises ``UsageError`` for what names no object store, ``UnsupportedError`` where obstore is missing.
    """
    from stratum.oci.bucketname import BUCKET_PREFIXES, split_bucket

    text = os.fspath(where)
    if not text.startswith(BUCKET_PREFIXES):
        from stratum.content.treestore import LocalStore

        return LocalStore(text, create=create)
    from dataclasses import replace

    from stratum.config import load_config
    from stratum.content.objectstore import ObjectStore
    from stratum.oci.access import access_of
    from stratum.oci.bucket import open_bucket

    bucket, tag, digest = split_bucket(text)
    if tag is not None or digest is not None:
        raise UsageError(f"a content store has no tags and digests: {bucket}", hint="name the bucket and a prefix only")
    access = replace(access_of(load_config()), unsafe_concurrent=unsafe_concurrent or None)
    return ObjectStore(open_bucket(bucket, access), tree=tree)
