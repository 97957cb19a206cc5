"""The parts of pages: names, addresses, lines of descent, sides of a difference, what a file is, forms and cookies."""

from __future__ import annotations

import html
import random
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import NotFoundError, UsageError
from stratum.serve.page import contents, drawings, graph, sides, words
from stratum.serve.page.signing import LASTS, Signing
from stratum.serve.page.visiting import FORM_MAX, own_address, parse_form
from stratum.tree.linediff import unified

NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 0x2F} & set(name) and name not in (b".", b".."))
ALLOWED = re.compile(r'<bdi>|</bdi>|<span class="esc">|</span>')


@given(st.lists(NAMES, max_size=5))
def test_a_path_of_any_bytes_comes_back_from_its_address_and_is_shown_as_text_only(path: list[bytes]) -> None:
    whole = b"/" + b"/".join(path)
    address = words.in_stratum("t", "app", "v1", whole)
    assert address.isascii()
    assert not set("<>\"' ?#&\\\n") & set(address)
    assert words.tail(address.encode(), 4) == whole
    for shown in (words.name_html(whole), words.line_html(whole.decode("utf-8", "surrogateescape"))):
        text = html.unescape(ALLOWED.sub("", str(shown)))
        assert "<" not in ALLOWED.sub("", str(shown))
        assert text.replace("\t", "").isprintable()
        text.encode("utf-8")
    assert words.name_text(whole).isprintable()


@pytest.mark.parametrize("address", ["/s/a/t/v1/%2e%2e/x", "/s/a/t/v1/a%2Fb", "/s/a/t/v1/./x", "/s/a/t/v1/a%00"])
def test_no_address_leads_out_of_a_tree(address: str) -> None:
    with pytest.raises(NotFoundError):
        words.tail(address.encode(), 4)


def test_what_turns_or_covers_text_is_an_escape() -> None:
    assert "\\u202e" in words.name_html("a\u202eb".encode())
    assert "\\xff" in words.name_html(b"\xff")
    assert "\\n" in words.name_html(b"a\nb")
    assert words.name_html(b"a\\n").count("\\\\") == 1
    assert words.name_html(("z" + "\u0301" * 60).encode()).count("\\u0301") == 56
    assert words.line_html("a\tb\\") == "a\tb\\"
    assert words.name_html("日本語 עברית") == "<bdi>日本語 עברית</bdi>"


def test_sizes_and_times_are_told_in_words() -> None:
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert [words.size_text(size) for size in (0, 1023, 1024, 1 << 20, 300 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 MiB", "300 GiB",
    ]  # fmt: skip
    ago = [words.ago_text(now - timedelta(seconds=seconds), now) for seconds in (5, 60, 7200, 86400 * 3, 86400 * 900)]
    assert ago == ["just now", "1 minute ago", "2 hours ago", "3 days ago", "2 years ago"]
    assert words.moment("2026-03-01T00:00:00Z") == now
    assert words.moment("nonsense") is None
    assert words.of_nanoseconds(1 << 70) is None


def test_lanes_join_where_histories_do() -> None:
    lanes = graph.Lanes()
    history = [("d", "b"), ("c", "b"), ("b", "a"), ("a", None), ("x", None)]
    drawn = dict(zip("dcbax", (lanes.draw(commit, parent) for commit, parent in history), strict=True))
    assert [drawn[commit].x for commit in "dcbax"] == [8, 24, 8, 8, 8]
    assert [drawn[commit].lanes for commit in "dcbax"] == [1, 2, 2, 1, 1]
    assert [line.path for line in drawn["b"].lines if line.path is not None] == ["M8 0V22", "M24 0C24 11 8 11 8 22"]
    assert drawn["x"].lines == ()


def test_any_history_is_drawn_within_its_room() -> None:
    rng = random.Random(1)
    lanes = graph.Lanes()
    for number in range(500):
        drawn = lanes.draw(str(number), str(number + rng.randrange(-3, 40)), loose=rng.random() < 0.1)
        assert 1 <= drawn.lanes <= 10
        assert all(0 < line.x < 10 * graph.LANE for line in drawn.lines)
        assert len(drawn.lines) <= 40


@given(st.lists(st.sampled_from("abcd\\-+@ "), max_size=30), st.lists(st.sampled_from("abcd\\-+@ "), max_size=30))
def test_the_sides_of_a_difference_are_the_two_texts(old: list[str], new: list[str]) -> None:
    before, after = ([f"{line}{line}\n" for line in side] for side in (old, new))
    rows = list(sides.rows_of("".join(unified(before, after, "a/-x", "b/+x"))))
    for row in rows:
        for number, shown, lines in ((row.old_number, row.old, before), (row.new_number, row.new, after)):
            if number is not None:
                assert html.unescape(re.sub("</?(del|ins)>", "", str(shown))) + "\n" == lines[number - 1]
    assert bool(rows) == (before != after)
    assert {row.old_number for row in rows if row.kind in ("gone", "changed")} <= set(range(1, len(old) + 1))


def test_what_differs_in_a_line_is_marked_without_breaking_escapes() -> None:
    assert sides.marked("port = 80", "port = 8443") == ("port = 8<del>0</del>", "port = 8<ins>443</ins>")
    assert sides.marked("<b>1</b>", "<b>2</b>") == (
        "&lt;b&gt;<del>1</del>&lt;/b&gt;",
        "&lt;b&gt;<ins>2</ins>&lt;/b&gt;",
    )
    assert sides.marked("one", "other") == ("one", "other")


def test_a_file_is_what_its_bytes_say() -> None:
    assert contents.picture_type(b"\x89PNG\r\n\x1a\n...") == "image/png"
    for text in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"%PDF-1.4", b"", b"GIF8"):
        assert contents.picture_type(text) is None
    assert contents.is_text("größe\n".encode())
    assert contents.is_text("die größte\n".encode("latin-1"))
    assert not contents.is_text(b"\x7fELF\0")
    assert not contents.is_text(bytes(range(128, 256)))
    page = contents.text_page(b"x\n" * 2500, 2001)
    assert (page.first, len(page.lines), page.before, page.after) == (2001, 500, 1001, None)
    assert contents.text_page(b"", 5).lines == []
    evil = contents.text_page((b"\x01" * 1999 + b"\n") * 2000, 1)
    assert sum(map(len, evil.lines)) < 2_000_000
    assert evil.after == len(evil.lines) + 1 < 200
    assert len(words.said_html("x" * 10**6)) < 300
    assert len(contents.cut_line("y" * 10**6)) < 2200
    (row,) = contents.hex_rows(b"<a>\0\xff", 16)
    assert (row.offset, row.numbers, row.letters) == ("00000010", "3c 61 3e 00 ff", "<a>··")


def test_bars_fill_their_width_and_columns_their_time() -> None:
    pieces = drawings.bar([("a", 1), ("none", 0), ("b", 3)], 4)
    assert [(piece.name, piece.x, piece.width, piece.colour) for piece in pieces] == [("a", 0, 25, 0), ("b", 25, 75, 2)]
    assert drawings.bar([("a", 0)], 0) == []
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    made = drawings.activity([start, start + timedelta(days=1), start + timedelta(days=1)])
    assert made is not None
    assert [(column.x, column.count) for column in made.columns] == [(0, 1), (710, 2)]
    assert drawings.activity([start, start]) is None


class Stamps:
    """A door that knows what changes with the passwords of users."""

    def __init__(self, **stamps: bytes) -> None:
        self.stamps = stamps

    def stamp(self, user: str) -> bytes | None:
        return self.stamps.get(user)


def test_a_cookie_ends_with_its_time_the_password_and_the_server() -> None:
    door = Stamps(anna=b"1", bert=b"1")
    signing = Signing(door)  # type: ignore[arg-type]  # what it asks of a door
    cookie = signing.cookie("anna", 1000.0)
    assert cookie is not None
    assert signing.user(cookie, 1000.0) == signing.user(cookie, 1000.0 + LASTS - 1) == "anna"
    expires, name, mac = cookie.split(".")
    others = [f"{int(expires) + 9}.{name}.{mac}", f"{expires}.YmVydA==.{mac}", f"{expires}.{name}.", "", ".", "a.b.c"]
    assert [signing.user(other, 1000.0) for other in others] == [None] * 6
    assert signing.user(cookie, 1001.0 + LASTS) is None
    assert Signing(door).user(cookie, 1000.0) is None  # type: ignore[arg-type]
    token = signing.token("anna")
    assert token is not None
    assert signing.is_token("anna", token)
    assert not signing.is_token("bert", token)
    assert not signing.is_token("anna", mac)
    door.stamps["anna"] = b"2"
    assert signing.user(cookie, 1000.0) is None
    assert not signing.is_token("anna", token)
    assert signing.cookie("nobody", 0.0) is None


def test_forms_are_read_within_bounds_and_lead_nowhere_else() -> None:
    assert parse_form(b"a=1&b=%3Cx%3E+y&c=") == {"a": "1", "b": "<x> y", "c": ""}
    for data in (b"x" * (FORM_MAX + 1), b"&".join([b"a=1"] * 30), b"\xff"):
        with pytest.raises(UsageError):
            parse_form(data)
    assert own_address("/s/app?page=2") == "/s/app?page=2"
    for foreign in ("//evil", "/\\evil", "https://evil", "", "x", "/a\\b", "/a\nb"):
        assert own_address(foreign) == "/"
