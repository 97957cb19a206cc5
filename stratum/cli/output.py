"""What the command line prints: data on stdout, everything else on stderr; text or JSON.

Names in a store are bytes that anyone may have chosen: text output shows them with control characters, terminal escapes
and bytes that are not UTF-8 escaped; JSON carries them the same way, so that output is always valid and never acts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stratum.errors import escaped, one_line

if TYPE_CHECKING:
    from datetime import datetime

TEXT = "text"
JSON = "json"

NO_STRATA = "the store holds no strata; 'stratum init NAME MOUNTPOINT' or 'stratum import PATH NAME' makes the first"


def safe(value: bytes | str) -> str:
    """``value`` as printable text: whatever a terminal could act on or UTF-8 cannot carry is shown as an escape."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if text.isprintable() and "\\" not in text:
        return text
    return "".join("\\\\" if char == "\\" else escaped(char) for char in text)


def safe_lines(text: str) -> str:
    """Like ``one_line`` for a text whose line breaks are its own: a commit message."""
    return "\n".join(map(one_line, text.split("\n")))


class Output:
    """Prints results in the chosen format."""

    def __init__(self, output_format: str = TEXT, *, quiet: bool = False) -> None:
        self.format = output_format
        self.quiet = quiet

    @property
    def json(self) -> bool:
        return self.format == JSON

    def line(self, text: str) -> None:
        """One line of data on stdout."""
        write_stdout(text + "\n")

    def text(self, text: str) -> None:
        """Lines of data on stdout, as they are."""
        write_stdout(text)

    def object(self, value: Mapping[str, Any] | Sequence[Any] | None) -> None:
        """One JSON document on stdout."""
        import json

        write_stdout(json.dumps(value, indent=2, ensure_ascii=True) + "\n")

    def note(self, text: str) -> None:
        """One line for the person at the terminal, on stderr; not printed with --quiet."""
        if not self.quiet:
            print(one_line(text), file=sys.stderr)

    def warn(self, text: str) -> None:
        """A warning on stderr."""
        print(f"warning: {one_line(text)}", file=sys.stderr)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns on a terminal, tab-separated without a header where a program reads them."""
        rows = list(rows)
        if not sys.stdout.isatty():
            for row in rows:
                write_stdout("\t".join(row) + "\n")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        columns = list(zip(header, *rows, strict=True))
        pieces = [not any(" " in cell for cell in cells) for _, *cells in columns]  # to be copied, so not broken
        room = sum(max(map(len, column)) + 2 if one else _WORDS for column, one in zip(columns, pieces, strict=True))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title, one in zip(header, pieces, strict=True):
            table.add_column(title, overflow="fold", no_wrap=one and room <= console.width)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)


_WORDS = 10
"""Columns of a terminal that words have at least, in a table."""


def write_stdout(text: str) -> None:
    """Write to stdout whatever its encoding: what it cannot carry is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def print_error(code: int, error_id: str, message: str, hint: str, *, as_json: bool) -> None:
    """Print an error in the chosen format; message and hint are one line each, without control characters."""
    if as_json:
        import json

        document = {"code": code, "id": error_id, "message": one_line(message), "hint": one_line(hint)}
        print(json.dumps(document, ensure_ascii=True), file=sys.stderr)
        return
    print(f"error: {one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {one_line(hint)}", file=sys.stderr)


def human_size(size: int) -> str:
    """Bytes in binary units with one decimal: ``1.5 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{size} B"


def ago(when: str) -> str:
    """How long ago a time (RFC 3339 in UTC) was, in its largest unit: ``2 h ago``; as it is where it is no time."""
    from datetime import datetime, timezone

    try:
        then = datetime.fromisoformat(when.replace("Z", "+00:00"))
        seconds = (datetime.now(timezone.utc) - then).total_seconds()
    except (ValueError, TypeError):  # or a time of no zone
        return when
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def local_time(when: str, now: datetime | None = None) -> str:
    """A time (RFC 3339 in UTC) as local clocks show it, to the second: ``today 14:05:11``, ``yesterday 14:05:11``, or
    the date; as it is where it is no time."""
    from datetime import datetime, timedelta

    try:
        then = datetime.fromisoformat(when.replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError):
        return when
    today = (now or datetime.now()).date()
    days = {today: "today", today - timedelta(days=1): "yesterday"}
    return f"{days.get(then.date(), then.date().isoformat())} {then:%H:%M:%S}"


def short(commit: str) -> str:
    """A commit hash as shown to people: its first 12 digits."""
    return commit[:12]
