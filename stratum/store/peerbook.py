"""The peers of a store: this host's key, the peers that it knows, and what is shared with whom: ``peers/``.

::

    peers/           0700
    |-- key.pem      0600: the key of this host and its certificate (``peers.keys``), made when first asked for
    |-- book.toml    0600: [own]         name: what this host calls itself
    |                      [peer.NAME]   certificate (base64url), added (RFC 3339), address?, strata: what is shared
    |                                    with it, name -> "read" | "write"
    |                      [check]       tells changed bytes (``store.tables``)
    |-- promises.toml, era  0600: what peers count on (``store.promises``)
    `-- lock         flock, for the moment in which one of these is changed, in which no other lock is taken

The book is one file, so that a peer and what it may go in one step. It is looked at for every request of a peer, by its
signature, and read when that is another one (``PeerBook.now``): what is taken away counts at once. The files are the
host's, not its strata's: whoever copies a store to another machine has two hosts with one key.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, ExistsError, NotFoundError, UsageError
from stratum.frozen import frozen, replace
from stratum.peers.cards import Card, check_peer_name, decode, encode, is_peer_name, parse_address, peer_name_of
from stratum.peers.keys import CERTIFICATE_MAX, KEY_FILE_MAX, certificate_in, key_id
from stratum.store.layout import Layout, open_layout, signature_of, storing
from stratum.store.tables import is_checked, read_tables, write_tables
from stratum.sys.atomic import fsync_dir, remove_abandoned, write_atomic
from stratum.sys.locks import locked

if TYPE_CHECKING:
    from stratum.peers.link import FindPeer, Link

PEERS = "peers"
KEY = "key.pem"
BOOK = "book.toml"
LOCK = "lock"
PROMISES = "promises.toml"
ERA = "era"
FILES = (KEY, BOOK, PROMISES, ERA, LOCK)

PEERS_MAX = 10_000
_FILE_MAX = 16 << 20
_NAME_MAX = 255
_READ, _WRITE = "read", "write"


@frozen
class Peer:
    """A known peer. ``strata`` are those shared with it: name -> whether it may write; ``added``: when, RFC 3339."""

    name: str
    certificate: bytes
    added: str
    address: str | None = None
    strata: Mapping[str, bool] = {}

    @property
    def key_id(self) -> str:
        """The ID of its key."""
        return key_id(self.certificate)


@frozen
class Book:
    """What the book says. ``own_name`` is what this host calls itself, None where it has no key yet."""

    own_name: str | None
    peers: Mapping[str, Peer]

    def by_certificate(self, certificate: bytes) -> Peer | None:
        """The peer that shows this certificate."""
        return next((peer for peer in self.peers.values() if peer.certificate == certificate), None)


EMPTY = Book(None, {})


class PeerBook:
    """The peers of the store with this layout. For all threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.root / PEERS
        self._cached: tuple[object, Book] = (None, EMPTY)
        self._lock = threading.Lock()

    @property
    def key_file(self) -> Path:
        """Where the key of this host is or would be."""
        return self._directory / KEY

    def signature(self) -> object:
        """Another one when the book or the key may say something else."""
        return tuple(signature_of(self._directory / name) for name in (BOOK, KEY))

    def now(self) -> Book:
        """What the book says now. ``DamagedError``."""
        with self._lock:
            signature = signature_of(self._directory / BOOK)
            if signature is None or signature != self._cached[0]:
                self._cached = (signature, self._read())
            return self._cached[1]

    def get(self, name: str) -> Peer:
        """The peer of this name. ``NotFoundError``, ``DamagedError``."""
        peer = self.now().peers.get(name)
        if peer is None:
            raise NotFoundError(f"peer {name[:64]} is not known here", hint="'stratum peer list' shows those that are")
        return peer

    def own(self, name: str | None = None, *, new: bool = False) -> Card:
        """The card of this host, whose key is made where there is none, or a ``new`` one. ``name`` is what it calls
        itself from now on; at first that is the host's name. ``UnsupportedError``, ``DamagedError``."""
        if name is not None:
            check_peer_name(name)
        book, certificate = self.now(), self._certificate()
        if certificate is None or new or book.own_name is None or name not in (None, book.own_name):
            with self.changing():
                book, certificate = self.now(), self._certificate()
                if certificate is None or new:
                    from stratum.peers.keys import make_key_file

                    data = make_key_file()
                    self.write(KEY, data)
                    certificate = certificate_in(data, str(self.key_file))
                called = name or book.own_name or peer_name_of(socket.gethostname())
                if called != book.own_name:
                    self._put(replace(book, own_name=called))
                    book = self.now()
        assert book.own_name is not None
        return Card(book.own_name, certificate)

    def add(self, name: str, certificate: bytes, address: str | None, added: str) -> bool:
        """Know the peer with this certificate, which was checked, by ``name``; where it is known by that already, note
        where it listens. Whether that changed anything.

        ``ExistsError`` where the name is another's or the key has another name, ``UsageError`` where it is our own.
        """
        check_peer_name(name)
        address = parse_address(address) if address is not None else None
        if certificate == self._certificate():
            raise UsageError("this is the card of this host itself", hint="add the card that the other host prints")
        with self.changing():
            book = self.now()
            same, old = book.by_certificate(certificate), book.peers.get(name)
            if old is not None and old.certificate != certificate:
                raise ExistsError(
                    f"peer {name} is known here, with the key {old.key_id}",
                    hint=f"if it has a new key: stratum peer remove {name}, which ends what is shared with it",
                )
            if same is not None and same.name != name:
                raise ExistsError(f"the key {same.key_id} is that of peer {same.name}")
            if len(book.peers) >= PEERS_MAX:
                raise UsageError(f"{PEERS_MAX} peers are known already")
            peer = replace(old, address=address or old.address) if old else Peer(name, certificate, added, address)
            if peer == old:
                return False
            self._put(replace(book, peers={**book.peers, name: peer}))
            return True

    def remove(self, name: str) -> Peer:
        """Know the peer no longer, and share nothing with it; who it was. ``NotFoundError``."""
        with self.changing():
            peer, book = self.get(name), self.now()
            self._put(replace(book, peers={other: each for other, each in book.peers.items() if other != name}))
            return peer

    def share(self, stratum: str, name: str, *, write: bool) -> bool:
        """Share a stratum, or a repository, with the peer; whether that changed anything. ``NotFoundError``."""
        return self._set(name, lambda peer: replace(peer, strata={**peer.strata, stratum: write}))

    def unshare(self, stratum: str, name: str) -> bool:
        """Share it no longer; whether it was. ``NotFoundError`` where there is no such peer."""
        return self._set(name, lambda peer: _without(peer, stratum))

    def forget(self, stratum: str) -> None:
        """Share it with nobody: it is about to be removed, and another of its name is another's business."""
        if not any(stratum in peer.strata for peer in self.now().peers.values()):
            return
        with self.changing():
            book = self.now()
            self._put(replace(book, peers={name: _without(peer, stratum) for name, peer in book.peers.items()}))

    def _set(self, name: str, change: Callable[[Peer], Peer]) -> bool:
        with self.changing():
            peer, book = self.get(name), self.now()
            changed = change(peer)
            if changed == peer:
                return False
            self._put(replace(book, peers={**book.peers, name: changed}))
            return True

    # Files

    def _certificate(self) -> bytes | None:
        """That of this host; None where it has no key yet."""
        data = self._layout.content_of(self.key_file, KEY_FILE_MAX)
        if data is None:
            return None
        return certificate_in(data, str(self.key_file))

    def check_key(self) -> None:
        """``DamagedError`` where this host has a key that cannot be used."""
        if self._certificate() is not None:
            from stratum.peers.tls import server_context

            server_context(self.key_file, ())

    def check(self) -> None:
        """``DamagedError`` where the book cannot be read, or is without its check."""
        self._read(checked=True)

    def _read(self, *, checked: bool = False) -> Book:
        path = self._directory / BOOK
        data = self._layout.content_of(path, _FILE_MAX)
        if data is None:
            return EMPTY
        if checked and not is_checked(data):
            raise _damaged(str(path), "its check is gone")
        return parse_book(data, str(path))

    def _put(self, book: Book) -> None:
        self.write(BOOK, format_book(book))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change one of the files in the block: one process at a time."""
        with storing(f"change {self._directory}"):
            with suppress(FileExistsError):
                self._directory.mkdir(mode=0o700)
                fsync_dir(self._layout.root)
            os.close(self._layout.open_beneath(self._directory, os.O_RDONLY | os.O_DIRECTORY))
            with locked(self._directory / LOCK, what="the list of peers"):
                yield

    def write(self, name: str, data: bytes) -> None:
        """Have ``data`` be the file of that name, durably."""
        directory = self._layout.open_beneath(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_abandoned(directory)
            write_atomic(Path(name), data, 0o600, directory=directory)
        finally:
            os.close(directory)


def _without(peer: Peer, stratum: str) -> Peer:
    return replace(peer, strata={name: write for name, write in peer.strata.items() if name != stratum})


def format_book(book: Book) -> bytes:
    """The file of a book."""
    tables: dict[str, Any] = {}
    if book.own_name is not None:
        tables["own"] = {"name": book.own_name}
    peers = {}
    for name, peer in sorted(book.peers.items()):
        table: dict[str, Any] = {"certificate": encode(peer.certificate), "added": peer.added}
        if peer.address is not None:
            table["address"] = peer.address
        table["strata"] = {name: _WRITE if write else _READ for name, write in sorted(peer.strata.items())}
        peers[name] = table
    return write_tables({**tables, "peer": peers}, "the list of peers")


def parse_book(data: bytes, where: str) -> Book:
    """What such a file says. ``DamagedError`` names ``where``."""
    tables = read_tables(data, where)
    own, peers = tables.get("own", {}), tables.get("peer", {})
    if not isinstance(own, dict) or not isinstance(peers, dict) or len(peers) > PEERS_MAX:
        raise _damaged(where, "it holds no list of peers")
    name = own.get("name")
    if name is not None and (not isinstance(name, str) or not is_peer_name(name)):
        raise _damaged(where, "this host has no name of a peer")
    return Book(name, {each: _peer(each, table, where) for each, table in peers.items()})


def _peer(name: str, table: object, where: str) -> Peer:
    if not is_peer_name(name) or not isinstance(table, dict):
        raise _damaged(where, "a peer has no name")
    certificate, added, address, strata = (table.get(key) for key in ("certificate", "added", "address", "strata"))
    if not isinstance(certificate, str) or len(certificate) > 2 * CERTIFICATE_MAX or not isinstance(added, str):
        raise _damaged(where, f"peer {name} has no certificate")
    if not isinstance(strata, dict) or not all(
        may in (_READ, _WRITE) and 0 < len(each) <= _NAME_MAX and each.isprintable() for each, may in strata.items()
    ):
        raise _damaged(where, f"what is shared with peer {name} cannot be read")
    try:
        if address is not None and (not isinstance(address, str) or parse_address(address) != address):
            raise _damaged(where, f"the address of peer {name} is none")
        data = decode(certificate)
        key_id(data)
    except UsageError as exc:
        raise _damaged(where, f"peer {name}: {exc.message}") from None
    return Peer(name, data, added, address, {each: may == _WRITE for each, may in strata.items()})


def _damaged(where: str, why: str) -> DamagedError:
    return DamagedError(
        f"{where} is damaged: {why}", hint="bring it back from a backup, or remove it, add the peers and share anew"
    )


def finder(store: Path) -> FindPeer:
    """What finds peers in the book of the store at ``store``, for ``oci.access.Access``; the store need not exist."""
    return functools.partial(_find, store)


def _find(store: Path, name: str) -> Link:
    from stratum.peers.link import Link

    book = PeerBook(open_layout(store))
    peer = book.get(name)
    return Link(peer.name, peer.certificate, peer.address, book.key_file)
