"""``serve --web``: pages in a real browser, for who sees, hears or types, and what they let nobody do."""

from __future__ import annotations

import html
import io
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.support.browser import AUDIT, Browser, Page, chromium
from tests.support.command import Command
from tests.support.served import Answer, Asking, Served, served, write_users

pytestmark = pytest.mark.root

USERS = {"anna": "secret"}
EVIL = "<script>alert(1)</script>"
NAMES = [
    b"<script>alert(1)<b>", b"a\nb", "evil\u202egnp.exe".encode(), b"\xff\xfe bytes", b"percent%2Fslash%",
    b"quote\"'&amp;", b"back\\slash", b" space ", b"?query#hash", "עברית.txt".encode(), b"x" * 200, b"..hidden",
    b"\x1b[31m", b"tab\t", b"javascript:alert(1)", ("z" + "\u0301" * 60).encode(), b"+", b"~",
]  # fmt: skip


def png(width: int, height: int) -> bytes:
    """A white picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@pytest.fixture
def store(cli: Command, tmp_path: Path) -> Command:
    """``app`` with two commits and a worktree; ``odd``, whose names are hostile; ``other``."""
    source = tmp_path / "src"
    (source / "many").mkdir(parents=True)
    (source / "conf").write_text("".join(f"option_{n} = {n}\n" for n in range(30)))
    (source / "logo.png").write_bytes(png(40, 20))
    (source / "bytes").write_bytes(bytes(range(256)) * 40)
    (source / "log").write_text("line\n" * 1500)
    for number in range(1201):
        (source / "many" / f"entry-{number:04}").touch()
    cli.ok("import", "--bare", source, "app:latest", "-m", "First")
    cli.ok("tag", "app:latest", "v1")
    (source / "conf").write_text((source / "conf").read_text().replace("7 = 7\n", "7 = 70\nmore = 1\n"))
    (source / "logo.png").write_bytes(png(80, 20))
    (source / "bytes").write_bytes(b"\0other")
    (source / "log").unlink()
    cli.ok("import", "--bare", source, "app:latest", "--force", "-m", f"Second {EVIL}\n\nwith \u202e more")
    cli.ok("worktree", "add", "app+dev", "app:latest")
    shutil.rmtree(source)
    source.mkdir()
    for name in NAMES:
        content = EVIL.encode() + b"\n\x1b[31m\xe9 \xe2\x80\xae " + name
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(content)
    (source / "fake.png").write_text(EVIL)
    (source / "real.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>")
    (source / "link").symlink_to("<img src=x onerror=alert(1)>")
    cli.ok("import", "--bare", source, "odd:latest", "-m", '"><img src=x onerror=alert(1)>')
    cli.ok("tag", "odd:latest", "v1")
    (source / "a\nb").write_text("--- a/x\n+++ b/x\n@@ -1 +1 @@\n")
    cli.ok("import", "--bare", source, "odd:latest", "--force")
    cli.ok("tag", "odd:latest", "v2")
    shutil.rmtree(source)
    source.mkdir()
    cli.ok("import", "--bare", source, "other:v1")
    return cli


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    directory = tmp_path / "chromium"
    directory.mkdir()
    with chromium(directory) as found:
        yield found


def links(answer: Answer) -> list[str]:
    """The addresses that a page leads to."""
    found = re.findall(r'(?:href|src)="([^"]*)"', answer.body.decode())
    return [html.unescape(link).partition("#")[0] for link in found]


def crawled(asking: Asking, start: str, below: str) -> dict[str, Answer]:
    """All pages that can be reached from one without leaving what is ``below``."""
    found: dict[str, Answer] = {}
    todo = [start]
    while todo:
        address = todo.pop()
        found[address] = asking("GET", address)
        if found[address].headers["Content-Type"].startswith("text/html"):
            new = {link for link in links(found[address]) if link.startswith(below)}
            todo += sorted(new.difference(found, todo))
    return found


def test_every_page_can_be_seen_heard_and_typed_at(store: Command, tmp_path: Path, browser: Browser) -> None:
    """At two widths, in light and dark; nothing is refused by the policy, as nothing asks for what it forbids."""
    addresses = [
        "/", "/usage", "/holders", "/signin", "/none", "/s/app", "/s/app?page=2", "/s/app/c/latest", "/s/app/t/v1",
        "/s/app/t/v1/conf", "/s/app/t/v1/logo.png", "/s/app/t/v1/bytes", "/s/app/t/v1/many?page=2&q=1",
        "/s/app/log/latest/conf", "/s/app/d/v1/latest", "/s/app/d/v1/latest/conf", "/s/app/d/v1/latest/logo.png",
        "/s/app/d/v1/latest/bytes", "/s/odd", "/s/odd/c/v1", "/s/odd/t/v1", "/s/odd/t/v1/real.svg",
        "/s/odd/d/v1/v2/a%0Ab", "/s/odd/t/v1/" + quote(NAMES[0]),
    ]  # fmt: skip
    with served(
        store, tmp_path, "--web", "--htpasswd", write_users(tmp_path / "users", **USERS), "--anonymous-read"
    ) as (server):
        page = browser.page()
        for address in addresses:
            for width, dark in ((1280, False), (400, True)):
                page.look(width, dark=dark)
                assert page.go(f"http://{server.host}{address}") == (404 if address == "/none" else 200)
                assert page.js(AUDIT) == [], (address, width)
            page.look(1280, dark=True)
            assert page.js(AUDIT) == [], address
        assert page.problems == []
        picture = (
            page.go(f"http://{server.host}/s/app/d/v1/latest/logo.png"),
            page.js("[...document.images].map((image) => image.naturalWidth)"),
        )
        assert picture == (200, [40, 80])


def test_hostile_names_lead_to_their_files_and_are_only_text(store: Command, tmp_path: Path) -> None:
    with served(store, tmp_path, "--web") as server:
        pages = crawled(server, "/s/odd", "/s/odd")
        assert {answer.status for answer in pages.values()} == {200}
        commit = re.findall(r"/s/odd/c/([0-9a-f]{64})", "\n".join(pages))[0]
        assert {f"/s/odd/raw/{commit}/{quote(name)}" for name in NAMES} <= set(pages)
        assert pages[f"/s/odd/raw/{commit}/{quote(NAMES[3])}"].body.endswith(NAMES[3])
        for address, answer in pages.items():
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; "), address
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            if "/raw/" in address:
                assert "; sandbox" in policy
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert answer.headers["Content-Disposition"].startswith("attachment; ")
                continue
            text = answer.body.decode()
            assert not re.search(r"<script|<img src=x| style=| on[a-z]+=\"|\u202e", text), address
        shown = server("GET", "/s/app/raw/v1/logo.png?show=1")
        assert (shown.headers["Content-Type"], "sandbox" in shown.headers["Content-Security-Policy"]) == (
            "image/png", True,
        )  # fmt: skip
        etag = shown.headers["ETag"]
        assert server("GET", "/s/app/raw/v1/logo.png?show=1", If_None_Match=etag).status == 304
        for fake in ("fake.png", "real.svg"):
            answer = server("GET", f"/s/odd/raw/v1/{fake}?show=1")
            assert answer.headers["Content-Type"] == "application/octet-stream"
        assert server("GET", "/s/app/t/v1/many/%2e%2e/conf").status == 404
        assert server("HEAD", "/s/app").body == b""
        compared = server("GET", "/s/odd/compare?old=v1&new=v2")
        assert (compared.status, compared.headers["Location"].count("/d/")) == (303, 1)


def test_large_things_come_in_pages(store: Command, tmp_path: Path) -> None:
    with served(store, tmp_path, "--web") as server:
        commit = store.json("show", "app:v1")["commit"]["metadata_hash"]
        listed = crawled(server, "/s/app/t/v1/many", f"/s/app/t/{commit}/many?page=")
        entries = {name for answer in listed.values() for name in re.findall(rb"entry-\d{4}", answer.body)}
        assert (len(listed), len(entries)) == (4, 1201)
        assert max(len(answer.body) for answer in listed.values()) < 400_000
        assert len(re.findall(b'class="entry"', server("GET", "/s/app/t/v1/many?q=entry-120").body)) == 1
        assert b'id="L1500"' in server("GET", "/s/app/t/v1/log?as=text&line=1001").body
        assert b"00002000" in server("GET", "/s/app/t/v1/bytes?at=8192").body
        assert server("GET", "/s/app/t/v1/bytes?at=99999999999999999999&page=-1&line=x").status == 200
        page = server("GET", "/s/app/d/v1/latest/conf").body.decode()
        assert "option_7 = 7<ins>0</ins>" in page
        assert "more = 1" in page


def test_what_is_not_visible_is_not_there(store: Command, tmp_path: Path) -> None:
    """Without signing in, where that is asked for; a commit of another stratum; whoever calls the server otherwise."""
    users = write_users(tmp_path / "users", **USERS)
    commit = store.json("show", "other:v1")["commit"]["metadata_hash"]
    with served(store, tmp_path, "--web", "--htpasswd", users) as server:
        assert b"no strata that you may see without signing in" in server("GET", "/").body
        there, not_there = (server("GET", f"/s/{name}") for name in ("app", "non"))
        assert there.status == not_there.status == 404
        assert there.body.replace(b"app", b"non") == not_there.body
        for address in ("/s/app/c/latest", "/s/app/t/v1/conf", "/s/app/raw/v1/conf", "/s/app/d/v1/latest"):
            assert server("GET", address).status == 404
        assert b"app" not in server("GET", "/usage").body + server("GET", "/holders").body
        assert server("GET", "/s/app", user=("anna", "secret")).status == 200
        assert server("GET", "/s/app", user=("anna", "wrong")).status == 401
        assert server("GET", f"/s/other/c/{commit}", user=("anna", "secret")).status == 200
        assert server("GET", f"/s/app/c/{commit}", user=("anna", "secret")).status == 404
        assert server("GET", "/s/app/archive/v1").status == 404
    with served(store, tmp_path, "--web") as server:
        assert server("GET", "/", Host="evil.example").status == 421
        assert server("GET", "/s/app/archive/v1").status == 403


def cookie_of(server: Served) -> str:
    done = server("POST", "/signin", urlencode({"user": "anna", "password": "secret", "next": "//evil"}).encode())
    assert (done.status, done.headers["Location"]) == (303, "/")
    cookie, *rest = done.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(rest)
    return cookie


def test_who_is_signed_in_downloads_and_sets_tags_and_no_other_site_does(store: Command, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users", **USERS)
    with served(store, tmp_path, "--web", "--htpasswd", users, "--anonymous-read", "--write") as server:
        wrong = server("POST", "/signin", b"user=anna&password=wrong")
        assert (wrong.status, "Set-Cookie" in wrong.headers) == (403, False)
        cookie = cookie_of(server)
        page = server("GET", "/s/app/c/v1", Cookie=cookie).body.decode()
        token, commit = (re.findall(f'name="{name}" value="([^"]*)"', page)[0] for name in ("token", "commit"))

        def tag(name: str, **more: str) -> int:
            form = {"token": token, "commit": commit, "tag": name} | {
                key: more.pop(key) for key in ("move",) if key in more
            }
            headers = {"Cookie": cookie} | more
            return server("POST", "/s/app/tag", urlencode(form).encode(), **headers).status

        assert tag("good") == 303
        assert store.json("show", "app:good")["commit"]["metadata_hash"] == commit
        assert "by anna" in store.json("log", "app", "--reflog")[0]["why"]
        assert tag("latest") == 409
        assert tag("b/ad") == 400
        assert tag("latest", move="on") == 303
        assert tag("x", Cookie="") == 403
        assert tag("x", Origin="http://evil.example") == tag("x", Sec_Fetch_Site="cross-site") == 403
        assert tag("x", Origin=f"http://{server.host}") == 303
        assert server("POST", "/s/app/tag", b"commit=1&tag=y", Cookie=cookie).status == 403
        assert server("POST", "/s/app/tag", b"x" * 70_000, Cookie=cookie).status in (400, 413)
        tar = server("GET", "/s/app/archive/good?as=tar", Cookie=cookie)
        with tarfile.open(fileobj=io.BytesIO(tar.body)) as members:
            assert f"app-{commit[:12]}/many/entry-1200" in members.getnames()
        packed = server("GET", "/s/odd/archive/v1?as=zip", Cookie=cookie)
        with zipfile.ZipFile(io.BytesIO(packed.body)) as members:
            assert members.testzip() is None
        assert server("GET", "/s/app/archive/good/conf?as=rar", Cookie=cookie).status == 400
        guesses = [server("POST", "/signin", b"user=anna&password=%d" % number).status for number in range(12)]
        assert guesses == sorted(guesses)
        assert set(guesses) == {403, 503}
        write_users(users, anna="new")
        assert b"Sign out" not in server("GET", "/", Cookie=cookie).body
    with served(store, tmp_path, "--web", "--htpasswd", users) as server:
        assert server("GET", "/s/app", Cookie=cookie).status == 404


def sign_in(page: Page, host: str) -> None:
    """By the keyboard alone."""
    page.go(f"http://{host}/s/app/c/v1")
    page.press("Tab")
    assert page.focus() == "Skip to the content"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    while page.focus() != "Sign in":
        page.press("Tab")
    page.press("Enter")
    page.wait()
    for field, text in (("user", "anna"), ("password", "secret")):
        while page.focus() != field:
            page.press("Tab")
        page.type(text)
    page.press("Enter")
    page.wait()


def test_all_is_done_by_the_keyboard(store: Command, tmp_path: Path, browser: Browser) -> None:
    users = write_users(tmp_path / "users", **USERS)
    with served(store, tmp_path, "--web", "--htpasswd", users, "--anonymous-read", "--write") as server:
        page = browser.page()
        page.look(1280)
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        sign_in(page, server.host)
        assert page.js(AUDIT) == []
        while page.focus() != "tag":
            page.press("Tab")
        page.type("typed")
        page.press("Enter")
        page.wait()
        assert "typed" in page.js("document.querySelector('.chips').textContent")
        while page.focus() != "Sign out":
            page.press("Tab")
        page.press("Enter")
        page.wait()
        assert page.js("document.querySelector('.who').textContent.trim()") == "Sign in"
        assert page.problems == []
