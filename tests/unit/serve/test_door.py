"""Who asks: passwords of a file that changes, too many wrong ones, and names that are somebody else's."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from stratum.errors import UsageError
from stratum.serve.door import Door
from stratum.serve.limits import Allowance, network_of
from stratum.serve.passwords import Passwords, parse_passwords
from stratum.serve.refusals import Refusal
from stratum.serve.visibility import Asker, Everywhere
from tests.support.served import write_users

READERS = Everywhere()
WRITERS = Everywhere(write=True)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return write_users(tmp_path / "users", anna="secret", bert="geheimnis")


def door(passwords: Passwords | None, **more: object) -> Door:
    return Door(passwords, users=WRITERS, anybody=READERS, **{"each_second": 1000, **more})  # type: ignore[arg-type]


def ask(
    of: Door,
    host: str = "localhost",
    given: str | None = None,
    client: str = "192.0.2.1",
    method: str = "GET",
    **more: str,
) -> Asker:
    """Ask as from ``client``; ``given`` are the name and the password, ``more`` further headers."""
    headers = [(b"host", host.encode())]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    if given is not None:
        headers.append((b"authorization", b"Basic " + b64encode(given.encode())))
    scope = {"type": "http", "headers": headers, "client": (client, 1), "query_string": b"", "state": {}}
    scope |= {"method": method, "path": "/v2/x/blobs/uploads/"}
    return asyncio.run(of.who(HTTPConnection(scope)))


def status(of: Door, *args: str, **more: str) -> int:
    with pytest.raises(Refusal) as caught:
        ask(of, *args, **more)
    return caught.value.status_code


def test_users_come_in_by_their_passwords_and_others_are_told_to_sign_in(users: Path) -> None:
    said: list[str] = []
    passwords = Passwords(users, said.append)
    of = door(passwords)
    assert ask(of, given="anna:secret") == ask(of, given="anna:secret") == Asker("anna", WRITERS)
    assert ask(of) == ask(of, given=":") == Asker(None, READERS, may_sign_in=True)
    assert passwords.remembered("anna", "secret")
    assert not passwords.remembered("bert", "geheimnis")
    before = of.stamp("anna")
    for wrong in ("anna:geheimnis", "anna:", "anna:secret\0", "nobody:secret", "anna:" + "x" * 100):
        assert status(of, given=wrong) == 401
    write_users(users, anna="new")
    assert not passwords.remembered("anna", "secret")
    assert status(of, given="anna:secret") == 401
    assert ask(of, given="anna:new").name == "anna"
    assert of.stamp("bert") is None
    assert of.stamp("anna") not in (None, before)
    users.write_text("anna:new")
    assert status(of, given="anna:new", client="192.0.2.2") == 401
    write_users(users, anna="new").chmod(0o666)
    assert status(of, given="anna:new", client="192.0.2.3") == 401
    users.unlink()
    assert status(of, given="anna:new", client="192.0.2.4") == 401
    assert len(said) == 3


def test_who_guesses_has_to_wait_and_others_do_not(users: Path) -> None:
    of = door(Passwords(users, print))
    tries = [status(of, given=f"anna:{number}", client="2001:db8::1") for number in range(12)]
    assert tries[:10] == [401] * 10
    assert tries[-1] == 429
    assert status(of, given="anna:secret", client="2001:db8::2") == 429  # of the same network
    assert ask(of, given="anna:secret", client="2001:db8:0:1::1").name == "anna"


def test_requests_are_counted() -> None:
    allowance = Allowance(0.001, 3)
    for _ in range(3):
        assert allowance.wait("a") == 0
        allowance.take("a")
    assert 0 < allowance.wait("a") <= 1000
    assert allowance.wait("b") == 0
    of = door(None, each_second=1)
    answers = [ask(of) for _ in range(10)]
    assert answers == [Asker(None, READERS)] * 10
    assert status(of) == 429
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"


def test_a_name_that_somebody_made_lead_here_is_not_answered() -> None:
    of = door(None, names=("Store.example",))
    for name in ("localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "192.0.2.9", "store.EXAMPLE.:80"):
        ask(of, name)
    for name in ("evil.example", "evil.example:5000", "", "127.0.0.1.evil.example", "localhost.evil.example"):
        assert status(of, name) == 421


def test_who_may_read_without_a_password_is_asked_for_the_name_on_loopback_only(users: Path) -> None:
    of = door(Passwords(users, print))
    ask(of, "evil.example")
    of.is_loopback = True
    assert status(of, "evil.example") == 421
    assert ask(of, "evil.example", "anna:secret").name == "anna"
    assert ask(of).may_sign_in
    named = door(Passwords(users, print), names=("store.example",))
    ask(named, "store.example")
    assert status(named, "evil.example") == 421


def test_a_browser_pushes_nothing_for_another_site() -> None:
    of = door(None)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for headers in ({"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "null"}):
            assert status(of, method=method, **headers) == 403
        assert status(of, method=method, origin="http://evil.example") == 403
        ask(of, method=method, origin="http://localhost")
        ask(of, method=method)
    ask(of, sec_fetch_site="cross-site")


@pytest.mark.parametrize(
    "text",
    [
        b"anna",
        b":$2b$04$" + b"a" * 53,
        b"anna:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        b"anna:$2b$31$" + b"a" * 53,
        b"anna:$2b$04$short",
        b"a\x07:$2b$04$" + b"a" * 53,
        b"x" * 65 + b":$2b$04$" + b"a" * 53,
        (b"anna:$2b$04$" + b"a" * 53 + b"\n") * 2,
    ],
)
def test_lines_that_are_none(text: bytes) -> None:
    with pytest.raises(UsageError, match="line"):
        parse_passwords(text)
