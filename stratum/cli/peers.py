"""``peer`` and ``share``: the hosts that are known here, and what they may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stratum.cli.app import App, VerbsBelow, verb
from stratum.cli.reftype import NAME
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.api.peers import Share
    from stratum.store.peerbook import Peer

_READ, _WRITE = "read", "write"


@click.group("peer", cls=VerbsBelow)
def peer() -> None:
    """The hosts that this one knows by their keys: they fetch from one another what is shared (stratum share), and sync
    (stratum sync).

    Two hosts know each other when each has added the other's card.
    """


@verb(
    "id",
    short_help="Print the card of this host.",
    examples=[
        ("What others add", "stratum peer id"),
        ("Under another name than the host's", "stratum peer id --name attic"),
    ],
)
@click.option("--name", metavar="NAME", help="What this host calls itself from now on.")
@click.option("--new", is_flag=True, help="Make a new key: peers do not know this host until they add the new card.")
def id_(app: App, name: str | None, new: bool) -> None:
    """Print the card of this host: one line, to be given to 'stratum peer add' on another host. It is no secret; but
    who adds it should know that it is yours.

    The key is made the first time, in the store, where nobody else can read it. Whoever copies the store copies it.
    """
    from stratum.api.peers import own_card
    from stratum.peers.keys import key_id

    card = own_card(app.session, name, new=new)
    key = key_id(card.certificate)
    if app.out.json:
        app.out.object({"name": card.name, "key": key, "card": str(card)})
        return
    app.out.line(str(card))
    app.out.note(f"{card.name} has the key {key}")


@verb(
    "add",
    short_help="Know another host by its card.",
    examples=[
        ("A host that asks this one", "stratum peer add laptop stratum-peer:laptop:MIIB..."),
        ("One that is asked, too", "stratum peer add attic stratum-peer:attic:MIIB... attic.example:5443"),
    ],
)
@click.argument("name", metavar="NAME", type=NAME)
@click.argument("card", metavar="CARD")
@click.argument("address", metavar="[HOST:PORT]", required=False)
def add(app: App, name: str, card: str, address: str | None) -> None:
    """Know the host whose card is CARD as NAME from now on. HOST:PORT is where its 'stratum serve --peers' listens, as
    far as it can be reached; the same again with another changes that.

    Nothing is shared with it by that, and it has to add the card of this host, too.
    """
    from stratum.api.peers import add_peer

    found, changed = add_peer(app.session, name, card, address)
    if app.out.json:
        app.out.object({**_as_json(found), "changed": changed})
        return
    where = f", and listens at {found.address}" if found.address is not None else ""
    app.out.note(f"{name} has the key {found.key_id}{where}{'' if changed else '; that was known'}")


@verb("list", short_help="List the hosts that are known.", examples=[("All of them", "stratum peer list")])
def list_(app: App) -> None:
    """List the hosts that are known here: their keys, where they listen, and how many strata are shared with each."""
    from stratum.api.peers import list_peers

    found = list_peers(app.session)
    if app.out.json:
        app.out.object([_as_json(each) for each in found])
        return
    rows = [(each.name, each.key_id, each.address or "-", str(len(each.strata))) for each in found]
    app.out.table(("PEER", "KEY", "ADDRESS", "SHARED"), rows)
    if not found:
        app.out.note("no peers are known; 'stratum peer add NAME CARD' makes one")


@verb(
    "remove", short_help="Know a host no longer.", examples=[("A laptop that was lost", "stratum peer remove laptop")]
)
@click.argument("name", metavar="NAME", type=NAME)
def remove(app: App, name: str) -> None:
    """Know a host no longer: from this moment on it gets nothing from here, also by connections that are open, and what
    was shared with it is shared no more. What it has fetched stays with it.
    """
    from stratum.api.peers import remove_peer

    gone = remove_peer(app.session, name)
    if app.out.json:
        app.out.object(_as_json(gone))
        return
    app.out.note(f"{name} with the key {gone.key_id} is not known any more")


def _as_json(found: Peer) -> dict[str, object]:
    return {
        "peer": found.name,
        "key": found.key_id,
        "address": found.address,
        "added": found.added,
        "shared": {name: _WRITE if write else _READ for name, write in found.strata.items()},
    }


for each in (id_, add, list_, remove):
    peer.add_command(each)


@verb(
    "share",
    examples=[
        ("Let laptop read db", "stratum share db --with laptop"),
        ("Let it push and sync, too", "stratum share db --with laptop --write"),
        ("End that", "stratum share db --stop --with laptop"),
        ("What is shared with whom", "stratum share"),
    ],
)
@click.argument("stratum", metavar="[STRATUM]", required=False, type=NAME)
@click.option("--with", "peers", metavar="PEER", multiple=True, help="A peer; may be given several times.")
@click.option("--write", is_flag=True, help="The peer may push and move tags, too.")
@click.option("--stop", is_flag=True, help="Share it with the peer no longer.")
def share(app: App, stratum: str | None, peers: tuple[str, ...], write: bool, stop: bool) -> None:
    """Share a stratum with peers: all its tags and their history, those that are to come too. A peer cannot tell what
    is not shared with it from what does not exist.

    With --write it need not exist yet: the peer makes it by a push. Without --with: list what is shared.
    """
    from stratum.api.peers import list_shares, unshare
    from stratum.api.peers import share as run

    if not peers and (write or stop):
        raise UsageError("it is not said with whom", hint="--with PEER; 'stratum peer list' shows the peers")
    if peers and stratum is None:
        raise UsageError("it is not said what to share", hint=f"stratum share STRATUM --with {peers[0]}")
    if stop and write:
        raise UsageError("--stop ends all sharing", hint="to let a peer read only: leave both out")
    for name in peers:
        assert stratum is not None
        if stop:
            if not unshare(app.session, stratum, name):
                app.out.note(f"{stratum} was not shared with {name}")
        else:
            run(app.session, stratum, name, write=write)
    _print(app, list_shares(app.session, stratum))


def _print(app: App, shares: list[Share]) -> None:
    if app.out.json:
        app.out.object(
            [{"stratum": each.stratum, "peer": each.peer, "may": _WRITE if each.write else _READ} for each in shares]
        )
        return
    rows = [(each.stratum, each.peer, _WRITE if each.write else _READ) for each in shares]
    app.out.table(("STRATUM", "PEER", "MAY"), rows)
    if not shares:
        app.out.note("nothing is shared; 'stratum share STRATUM --with PEER' does")
