"""Names as C4M writes them, and the order that it lists them in. Pure.

A name is bytes, written in two layers. Printable UTF-8 stands for itself; NUL, tab, line feed, carriage return and the
backslash are ``\\0``, ``\\t``, ``\\n``, ``\\r`` and ``\\\\``; every other byte, and those of the currency sign, is the
Braille pattern of its number, between currency signs. Over that, space and double quote have a backslash before them,
and in names that are no sequences so have brackets. Which characters are printable is what Unicode says, so text that
one version writes as a pattern is itself to another; both are read.
"""

from __future__ import annotations

import re

SIGN = "\u00a4"
BRAILLE = 0x2800

_SHORT = {"\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}
_LONG = {short[1]: char for char, short in _SHORT.items()}
_PLAIN = re.compile(rb"[!#-Z^-~]+")
"""What is the same in both layers, for names and for targets."""
_FIELD = re.compile(r'[ "\[\]]')
_FIELD_OF_TARGET = re.compile(r'[ "]')
_ESCAPES = re.compile(r"\\(.?)|\u00a4([\u2800-\u28ff]+)\u00a4", re.DOTALL)
_DIGITS = re.compile(r"([0-9]+)")
_ODD = re.compile("[\udc80-\udcff]")

Key = tuple[tuple[int, str] | tuple[int, int, str, int], ...]


def safe_name(raw: bytes) -> str:
    """The first layer: printable text for any bytes."""
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and SIGN not in text and "\\" not in text:
        return text
    parts: list[str] = []
    pending = bytearray()
    for char in text:
        short = _SHORT.get(char)
        if short is None and (not char.isprintable() or char == SIGN):
            pending += char.encode("utf-8", "surrogateescape")
            continue
        parts += (_patterns(pending), short or char)
        pending.clear()
    parts.append(_patterns(pending))
    return "".join(parts)


def _patterns(data: bytearray) -> str:
    return SIGN + "".join(chr(BRAILLE + byte) for byte in data) + SIGN if data else ""


def written_name(raw: bytes) -> str:
    """A name, without the slash of a directory, as it stands in a line."""
    if _PLAIN.fullmatch(raw):
        return raw.decode()
    return _FIELD.sub(r"\\\g<0>", safe_name(raw))


def written_target(raw: bytes) -> str:
    """The target of a symbolic link as it stands in a line: brackets are themselves."""
    if _PLAIN.fullmatch(raw):
        return raw.decode()
    return _FIELD_OF_TARGET.sub(r"\\\g<0>", safe_name(raw))


def read_name(written: str, *, strict: bool = True) -> bytes:
    """The bytes that a name or target in a line stands for.

    Raises ValueError for a backslash that begins no escape; where not ``strict``, it stands for itself, as do lone
    currency signs everywhere.
    """
    if "\\" not in written and SIGN not in written:
        return written.encode()

    def meant(found: re.Match[str]) -> str:
        char, patterns = found[1], found[2]
        if patterns is not None:
            return bytes(ord(pattern) - BRAILLE for pattern in patterns).decode("utf-8", "surrogateescape")
        if char in _LONG:
            return _LONG[char]
        if char and char in ' "[]':
            return char
        if strict:
            raise ValueError("a backslash that begins no escape")
        return found[0]

    return _ESCAPES.sub(meant, written).encode("utf-8", "surrogateescape")


def natural_key(name: bytes) -> Key:
    """What names are sorted by: text and numbers in turn, numbers by their value, then by their length.

    The name of a directory has its slash, as listings have it. Text comes before a number. Bytes that are not UTF-8 all
    sort as U+FFFD does.
    """
    text = name.decode("utf-8", "surrogateescape")
    if not text.isascii():
        text = _ODD.sub("\ufffd", text)
    parts = _DIGITS.split(text)
    if len(parts) == 1:
        return ((0, text),)
    key: list[tuple[int, str] | tuple[int, int, str, int]] = []
    for place, part in enumerate(parts):
        if place % 2:
            value = part.lstrip("0")
            key.append((1, len(value), value, len(part)))
        elif part:
            key.append((0, part))
    return tuple(key)


def in_order(names: list[bytes]) -> list[bytes]:
    """Names of one kind, directories with their slash, as a listing has them. What sorts alike is in the order of its
    bytes."""
    return sorted(names, key=lambda name: (natural_key(name), name))
