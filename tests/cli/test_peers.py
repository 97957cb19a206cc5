"""Hosts that know one another by their keys: ``stratum serve --peers`` and who asks it, as processes."""

from __future__ import annotations

import json
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from stratum.peers.keys import make_key_file
from stratum.peers.tls import client_context
from tests.cli.trees import make_tree
from tests.support.peers import Host, ask, connected

pytestmark = pytest.mark.root

BIG = 200 << 20
"""More than all buffers between two processes hold."""


@pytest.fixture
def attic(tmp_path: Path) -> Host:
    """A host with the strata ``data`` and ``secret``."""
    host = Host(tmp_path / "attic")
    host.ok("import", "--bare", make_tree(tmp_path / "one", {"a": "a" * 5000, "b/c": "c" * 9000}), "data:v1")
    host.ok("import", "--bare", make_tree(tmp_path / "two", {"s": "s" * 7000}), "secret:v1")
    return host


@pytest.fixture
def laptop(tmp_path: Path) -> Host:
    return Host(tmp_path / "laptop")


def refused(host: Host, *words: str) -> tuple[int, str]:
    """What a command that fails says: its exit code and the error."""
    done = host(*words)
    assert done.code != 0
    return done.code, done.stderr


def test_only_who_is_known_gets_what_is_shared(attic: Host, laptop: Host) -> None:
    with attic.serving() as address:
        laptop.knows(attic, address)
        assert "closes the connection without an answer" in refused(laptop, "pull", "peer://attic/data:v1")[1]
        attic.knows(laptop)
        assert laptop.ok("list", "--remote", "peer://attic") == ""
        code, said = refused(laptop, "pull", "peer://attic/data:v1")
        other = refused(laptop, "pull", "peer://attic/none:v1")
        assert (code, said.replace("data", "none")) == other
        attic.ok("share", "data", "--with", "laptop")
        assert laptop.ok("list", "--remote", "peer://attic") == "peer://attic/data"
        pulled = laptop.ok("pull", "peer://attic/data:v1")
        assert pulled == attic.json("show", "data:v1")["commit"]["metadata_hash"]
        assert laptop.ok("cat", "data:v1", "/b/c") == "c" * 9000
        assert refused(laptop, "push", "data:v1", "peer://attic/data:v2")[0] == 1
        attic.ok("share", "data", "--stop", "--with", "laptop")
        assert refused(laptop, "pull", "peer://attic/data:v1", "again") == (code, said)
        attic.ok("peer", "remove", "laptop")
        assert "closes the connection" in refused(laptop, "list", "--remote", "peer://attic")[1]


def test_what_is_not_shared_does_not_exist(attic: Host, laptop: Host) -> None:
    """Each answer about a stratum that is there is that about one that is not; nothing of it is had by another."""
    attic.knows(laptop)
    attic.ok("share", "data", "--with", "laptop")
    commit = attic.json("show", "secret:v1")["commit"]["metadata_hash"]
    with attic.serving() as address:
        laptop.knows(attic, address)
        attic.ok("share", "secret", "--with", "laptop")
        with connected(laptop.link("attic")) as connection:
            manifest = json.loads(ask(connection, "GET", "/v2/secret/manifests/v1")[1])
            digest = manifest["layers"][-1]["digest"]
            assert ask(connection, "GET", f"/v2/secret/blobs/{digest}")[0] == 200
            attic.ok("share", "secret", "--stop", "--with", "laptop")
            for method, path in (
                ("GET", "/v2/NAME/manifests/v1"),
                ("GET", f"/v2/NAME/manifests/{commit}"),
                ("GET", f"/v2/NAME/manifests/{digest}"),
                ("HEAD", "/v2/NAME/manifests/v1"),
                ("GET", f"/v2/NAME/blobs/{digest}"),
                ("GET", "/v2/NAME/tags/list"),
                ("GET", f"/v2/NAME/referrers/{digest}"),
                ("PUT", "/v2/NAME/manifests/v1"),
                ("DELETE", "/v2/NAME/manifests/v1"),
                ("POST", "/v2/NAME/blobs/uploads/"),
                ("GET", "/_stratum/v1/strata/NAME/moves"),
                ("POST", "/_stratum/v1/strata/NAME/moves"),
                ("POST", "/_stratum/v1/strata/NAME/kept"),
            ):
                answers = [ask(connection, method, path.replace("NAME", name), b"") for name in ("secret", "nothing")]
                assert answers[0] == answers[1], path
                assert answers[0][0] != 200 or b'"manifests": []' in answers[0][1], path
            for path in (f"/v2/data/manifests/{commit}", f"/v2/data/blobs/{digest}"):
                assert ask(connection, "GET", path)[0] == 404
            for path in ("/v2/_catalog", "/_stratum/v1/strata"):
                status, body = ask(connection, "GET", path)
                assert (status, b"secret" in body, b"data" in body) == (200, False, True)
            assert ask(connection, "GET", "/")[0] == 404


def test_strangers_and_old_protocols_are_turned_away(attic: Host, laptop: Host, tmp_path: Path) -> None:
    attic.knows(laptop)
    attic.ok("share", "data", "--with", "laptop")
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(make_key_file())
    with attic.serving() as address:
        laptop.knows(attic, address)
        link = laptop.link("attic")
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old = client_context(link.key_file, link.certificate)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        for context in (nobody, old, client_context(stranger, link.certificate)):
            with connected(link, context) as connection, pytest.raises((OSError, EOFError)):
                ask(connection, "GET", "/v2/")
        with connected(link) as connection:
            assert ask(connection, "GET", "/v2/")[0] == 200


def test_another_host_at_the_same_address_is_not_believed(attic: Host, laptop: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    for host in (attic, other):
        host.knows(laptop)
    with attic.serving() as address:
        laptop.knows(attic, address)
    code, said = refused(laptop, "pull", "peer://attic/data:v1")
    assert (code, "cannot connect" in said) == (1, True)
    with other.serving(int(address.rpartition(":")[2])):
        code, said = refused(laptop, "pull", "peer://attic/data:v1")
        assert "has another key than the one that is known here" in said


def test_a_removed_peer_is_cut_off_in_the_middle(attic: Host, laptop: Host, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    with (tmp_path / "large/file").open("wb") as file:
        file.truncate(BIG)
    attic.ok("import", "--bare", tmp_path / "large", "large:v1")
    attic.knows(laptop)
    attic.ok("share", "large", "--with", "laptop")
    with attic.serving() as address:
        laptop.knows(attic, address)
        with connected(laptop.link("attic")) as connection:
            manifest = json.loads(ask(connection, "GET", "/v2/large/manifests/v1")[1])
            pack = max(manifest["layers"], key=lambda layer: layer["size"])
            assert pack["size"] > BIG
            connection.request("GET", f"/v2/large/blobs/{pack['digest']}")
            answer = connection.getresponse()
            received = len(answer.read(1 << 20))
            attic.ok("peer", "remove", "laptop")
            with suppress(Exception):  # however a connection that is cut shows
                while piece := answer.read(1 << 20):
                    received += len(piece)
            assert received < pack["size"]
        with connected(laptop.link("attic")) as connection, pytest.raises(OSError):
            ask(connection, "GET", "/v2/")


def test_a_peer_that_vanishes_leaves_nothing_half_done(attic: Host, laptop: Host, tmp_path: Path) -> None:
    """Killed in the middle of a blob; a pull works when it is back. A lazy commit goes on by its other source."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large/file").write_bytes(os.urandom(1 << 20) * 64)
    attic.ok("import", "--bare", tmp_path / "large", "large:v1")
    attic.knows(laptop)
    for name in ("large", "data"):
        attic.ok("share", name, "--with", "laptop")
    with attic.serving() as address:
        laptop.knows(attic, address)
        with connected(laptop.link("attic")) as connection:
            manifest = json.loads(ask(connection, "GET", "/v2/large/manifests/v1")[1])
            connection.request(
                "GET", f"/v2/large/blobs/{max(manifest['layers'], key=lambda one: one['size'])['digest']}"
            )
            connection.getresponse().read(1 << 20)
            attic.kill()
    assert refused(laptop, "pull", "peer://attic/large:v1")[0] == 1
    assert laptop.json("list") == []
    with attic.serving() as address:
        laptop.knows(attic, address)
        laptop.ok("pull", "peer://attic/large:v1")
        laptop.ok("pull", "--lazy", "peer://attic/data:v1")
        laptop.ok("push", "data:v1", f"oci:{tmp_path / 'layout'}:v1")
        laptop.ok("cache", "evict", "--to", "0", "--older-than", "0")
        attic.kill()
    assert laptop.ok("cat", "data:v1", "/b/c") == "c" * 9000, "the other source has it"
    laptop.ok("fsck")


def test_two_hosts_do_not_both_let_go(attic: Host, laptop: Host, tmp_path: Path) -> None:
    attic.knows(laptop)
    attic.ok("share", "data", "--with", "laptop")
    layout = f"oci:{tmp_path / 'layout'}:v1"
    with attic.serving() as address:
        laptop.knows(attic, address)
        laptop.ok("pull", "peer://attic/data:v1")
        attic.ok("push", "data:v1", layout)
        assert laptop.json("unrealize", "data:v1")["dropped_objects"] == 2
        assert attic.json("unrealize", "data:v1")["dropped_objects"] == 0, "laptop counts on it"
        assert {stay["why"]: stay["objects"] for stay in attic.json("cache", "status")["stays"]} == {"promised": 2}
        assert laptop.ok("cat", "data:v1", "/b/c") == "c" * 9000
        laptop.ok("realize", "data:v1")
        assert attic.json("unrealize", "data:v1")["dropped_objects"] == 2, "laptop has it itself again"
        assert laptop.json("unrealize", "data:v1")["dropped_objects"] == 0, "who has not all of it promises nothing"
        attic.ok("realize", "data:v1")
        laptop.ok("fsck", "--remote")  # as it was gone there
        assert laptop.json("unrealize", "data:v1")["dropped_objects"] == 2
        attic.ok("share", "data", "--stop", "--with", "laptop")
        assert attic.json("unrealize", "data:v1")["dropped_objects"] == 2, "nobody counts on what is not shared"


def test_both_at_the_same_moment(attic: Host, laptop: Host) -> None:
    for host, other in ((attic, laptop), (laptop, attic)):
        host.knows(other)
    attic.ok("share", "data", "--with", "laptop")
    with attic.serving() as address, laptop.serving() as other_address, ThreadPoolExecutor(2) as pool:
        laptop.knows(attic, address)
        attic.knows(laptop, other_address)
        laptop.ok("pull", "peer://attic/data:v1")
        laptop.ok("share", "data", "--with", "attic")
        attic.ok("pull", "peer://laptop/data:v1")
        for _ in range(4):
            done = list(pool.map(lambda host: host.json("unrealize", "data:v1"), (attic, laptop)))
            assert sum(each["dropped_objects"] > 0 for each in done) <= 1
            for host in (attic, laptop):
                assert host.ok("cat", "data:v1", "/b/c") == "c" * 9000
                host.ok("realize", "data:v1")
                host.ok("fsck", "--remote")
        assert sum(host.json("unrealize", "data:v1")["dropped_objects"] > 0 for host in (attic, laptop)) == 1
