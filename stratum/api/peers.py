"""The peers of this host, and what is shared with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.peers.cards import Card, parse_card
from stratum.refs import check_name
from stratum.store.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from stratum.api.registry import Registry
    from stratum.store.peerbook import Peer


@dataclass(frozen=True, slots=True)
class Share:
    """A stratum that a peer may read and, with ``write``, push to."""

    stratum: str
    peer: str
    write: bool


def own_card(session: Session, name: str | None = None, *, new: bool = False) -> Card:
    """The card of this host; its key is made at the first time, or a ``new`` one, which its peers do not know.

    ``name`` is what it calls itself from now on. ``UsageError``, ``UnsupportedError`` where cryptography is missing.
    """
    return session.create_store().peers.own(name, new=new)


def add_peer(session: Session, name: str, card: str, address: str | None = None) -> tuple[Peer, bool]:
    """Know the host with this card as ``name``, and where it listens (HOST:PORT); the peer, and whether it is news.

    Raises ``UsageError`` for what is no card, or this host's own, ``ExistsError`` where the name or the key is taken.
    """
    from stratum.peers.keys import check_certificate

    certificate = parse_card(card).certificate
    check_certificate(certificate)
    book = session.create_store().peers
    book.own()  # which is needed to speak to the peer
    changed = book.add(name, certificate, address, rfc3339(utc_now()))
    return book.get(name), changed


def list_peers(session: Session) -> list[Peer]:
    """The peers that are known, by name."""
    return [peer for _, peer in sorted(session.store.peers.now().peers.items())]


def remove_peer(session: Session, name: str) -> Peer:
    """Know the peer no longer, from this moment on, and share nothing with it; who it was. ``NotFoundError``."""
    return session.store.peers.remove(name)


def list_shares(session: Session, stratum: str | None = None) -> list[Share]:
    """What is shared with whom: all, or of one stratum."""
    found = [
        Share(name, peer.name, write)
        for peer in list_peers(session)
        for name, write in peer.strata.items()
        if stratum in (None, name)
    ]
    return sorted(found, key=lambda share: (share.stratum, share.peer))


def share(session: Session, stratum: str, peer: str, *, write: bool = False) -> bool:
    """Let a peer read a stratum and, with ``write``, push to it; whether it was another before.

    One to be pushed to need not be there yet. ``NotFoundError`` where there is no such peer or stratum.
    """
    store = session.store
    check_name(stratum)
    if not write:
        store.namespaces.check(stratum)
    return store.peers.share(stratum, peer, write=write)


def promise(session: Session, registry: Registry, stratum: str, peer: Peer, manifest: str, era: int) -> None:
    """Promise a peer to keep what the manifest (a digest) of a stratum that is shared with it is of, as it counts on
    that from now on, in its ``era``. ``NotFoundError`` where not all of it is here."""
    store = session.store
    with store.locks.store():  # so that nothing is evicted meanwhile
        commit = _commit_of(registry, stratum, manifest)
        if commit is not None:
            store.promises.add(commit, peer.key_id, stratum, era, store.commits.exists)


def let_off(session: Session, registry: Registry, stratum: str, peer: Peer, manifest: str, era: int) -> None:
    """End such a promise, where it is of before ``era``: the peer has all of that itself. ``NotFoundError`` where there
    is no such manifest."""
    commit = _commit_of(registry, stratum, manifest)
    if commit is not None:
        session.store.promises.drop(commit, peer.key_id, era)


def _commit_of(registry: Registry, stratum: str, manifest: str) -> str | None:
    """The commit that a manifest (a digest) of a stratum is of; None where it is another's. ``NotFoundError``."""
    from stratum.oci.image import is_commit
    from stratum.transfer.artifact import read_manifest

    data = registry.repository(stratum).manifest(manifest).data
    return read_manifest(data, f"{stratum}@{manifest}").commit if is_commit(data) else None


def unshare(session: Session, stratum: str, peer: str) -> bool:
    """End that, from this moment on; whether it was shared. ``NotFoundError`` where there is no such peer."""
    return session.store.peers.unshare(stratum, peer)
