"""A pull for its commit only: no tag is set while the store is locked."""

from __future__ import annotations

from collections.abc import Callable

from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.target import Target
from stratum.progress import Progress
from stratum.store import Store
from stratum.store.imageroom import Room
from stratum.transfer.pull import PullResult, pulled


def pull(
    store: Store,
    source: Target,
    access: Access,
    *,
    jobs: int = 1,
    isolated: bool = False,
    lazy: bool = False,
    progress: Progress | None = None,
    image: Callable[[], Room] | None = None,
) -> PullResult:
    """Bring the commit that ``source`` names into the store."""
    with (
        open_source(source, access) as remote,
        pulled(
            store,
            remote,
            source.reference,
            access=access,
            jobs=jobs,
            isolated=isolated,
            lazy=lazy,
            progress=progress,
            image=image,
        ) as done,
    ):
        return done
