"""What the bytes of a file are, and how they are shown: as a picture, lines of text, or numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from stratum.serve.page.words import line_html

LINE_MAX = 2000
"""Characters of a line that are shown."""
LINES_MAX = 1000
"""Lines on one page."""
PAGE_MAX = 300_000
"""Characters on one page."""
TEXT_MAX = 2 << 20
"""Bytes of a file that are shown as text: of a larger one, the first."""
PICTURE_MAX = 32 << 20
"""Bytes of a picture that is shown."""
HEX_ROW = 16
HEX_PAGE = 4096
"""Bytes on one page of numbers."""
LOOK = 8192
"""Bytes that tell what a file is."""
_ODD_MAX = 0.3


def picture_type(head: bytes) -> str | None:
    """The media type of a picture that a browser shows and that holds nothing but one; by its bytes, never by its
    name."""
    for magic, media_type in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
    ):
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return None


def is_text(head: bytes) -> bool:
    """Whether a file that begins so is shown as text."""
    if b"\0" in head:
        return False
    text = head.decode("utf-8", "surrogateescape")
    odd = sum(1 for char in text if "\udc80" <= char <= "\udcff" or (char < " " and char not in "\t\n\r\f\x1b"))
    return odd <= len(text) * _ODD_MAX


@dataclass(frozen=True, slots=True)
class Text:
    """Some lines: the number of the first, from 1, and how many there are in all that was read."""

    first: int
    lines: list[Markup]
    total: int

    @property
    def before(self) -> int | None:
        """The first line of the page before."""
        return max(1, self.first - LINES_MAX) if self.first > 1 else None

    @property
    def after(self) -> int | None:
        """The first line of the page after."""
        following = self.first + len(self.lines)
        return following if following <= self.total else None


def text_page(data: bytes, first: int) -> Text:
    """The lines from ``first`` on, or the last page."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines[-1] == "":
        lines.pop()
    first = max(1, min(first, len(lines) or 1))
    shown: list[Markup] = []
    room = PAGE_MAX
    for line in lines[first - 1 : first - 1 + LINES_MAX]:
        shown.append(cut_line(line))
        room -= min(len(line), LINE_MAX)
        if room < 0:
            break
    return Text(first, shown, len(lines))


def cut_line(line: str) -> Markup:
    """A line as HTML, not endlessly long."""
    line = line.removesuffix("\r")
    if len(line) <= LINE_MAX:
        return line_html(line)
    more = f"{len(line) - LINE_MAX:,} characters more"
    return Markup('{} <span class="esc">{}</span>').format(line_html(line[:LINE_MAX]), more)


@dataclass(frozen=True, slots=True)
class HexRow:
    """Sixteen bytes: where they are, their numbers in two groups, and what of them is a letter."""

    offset: str
    numbers: str
    letters: str


def hex_rows(data: bytes, offset: int) -> list[HexRow]:
    """Rows of the bytes that begin at ``offset`` in a file."""
    rows = []
    for at in range(0, len(data), HEX_ROW):
        some = data[at : at + HEX_ROW]
        numbers = f"{some[:8].hex(' ')}  {some[8:].hex(' ')}".strip()
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in some)
        rows.append(HexRow(f"{offset + at:08x}", numbers, letters))
    return rows
