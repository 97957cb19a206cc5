"""Fetching the tag that a volume asks for lazily and the store does not have."""

from __future__ import annotations

from stratum.api.session import Session
from stratum.errors import ConflictError, NotFoundError
from stratum.volumes.request import Volume


def ensure_fetched(session: Session, volume: Volume) -> None:
    """Have the tag that ``volume`` shows, or its worktree is made from, in the store.

    Of a volume that is ``lazy``, and where nothing in the store has that name, NAME:TAG is pulled lazily from the
    repository NAME of the registry (or object store) in the settings, as ``stratum pull`` would. What is here is not
    looked up again.
    The policy has let the volume pass. Raises ``NotFoundError`` where the settings name no registry, and as a pull.
    """
    tag = volume.fetched
    if not volume.lazy or tag is None or _is_here(session, volume):
        return
    registry = session.config.registry
    if registry is None:
        raise NotFoundError(
            f"{tag} is not in the store, and the settings name no registry to fetch it from",
            hint=f"set 'registry' in /etc/stratum/config.toml, or: stratum pull --lazy HOST/REPOSITORY {tag}",
        )
    from stratum.api.transfer import pull
    from stratum.oci.target import below

    # Written with the registry, as a stratum may have a name that would be something else there, like oci.
    source = below(registry, f"{tag.name.lower()}:{tag.tag}")
    try:
        pull(session, source, str(tag), access=session.access(), lazy=True, mounted=True)
    except ConflictError:  # another container's start has pulled it meanwhile
        if not _is_here(session, volume):
            raise


def _is_here(session: Session, volume: Volume) -> bool:
    store, ref = session.create_store(), volume.ref
    if ref.worktree is not None:
        if store.namespaces.exists_name(ref.name) and store.worktrees.exists(ref.name, ref.worktree):
            return True
        ref = volume.create or volume.fetched or ref
    try:
        store.resolve_commit(ref)
    except NotFoundError:
        return False
    return True
