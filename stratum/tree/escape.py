"""The escapes of composefs-dump(5), written as composefs-info writes them."""

from __future__ import annotations

import re

from stratum.errors import DamagedError

_UNSAFE = re.compile(rb"[^!-\[\]-~]")  # anything but a graphic ASCII character, and the backslash
_UNSAFE_XATTR = re.compile(rb"[^!-<>-\[\]-~]")  # '=' too
_NAMED = {0x5C: b"\\\\", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t"}
_ESCAPED = {bytes((byte,)): _NAMED.get(byte, b"\\x%02x" % byte) for byte in range(256)}
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_UNNAMED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def escape(value: bytes) -> bytes:
    """``value`` with everything that is not a graphic ASCII character escaped."""
    return _UNSAFE.sub(lambda match: _ESCAPED[match[0]], value) if _UNSAFE.search(value) else value


def escape_optional(value: bytes | None) -> bytes:
    """An optional field: ``-`` for None, and a lone dash escaped."""
    if value is None:
        return b"-"
    return b"\\x2d" if value == b"-" else escape(value)


def escape_xattr(value: bytes) -> bytes:
    """An xattr's name or value: like ``escape``, and '=' too."""
    return _UNSAFE_XATTR.sub(lambda match: _ESCAPED[match[0]], value) if _UNSAFE_XATTR.search(value) else value


def escape_xattrs_text(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """All extended attributes of a line: ``NAME=VALUE NAME=VALUE``, empty where there are none."""
    return b" ".join([b"%b=%b" % (escape_xattr(name), escape_xattr(value)) for name, value in xattrs])


def unescape(value: bytes) -> bytes:
    """The bytes that an escaped field stands for; ``DamagedError`` on a malformed escape."""
    return _ESCAPE.sub(_unescape_one, value) if b"\\" in value else value


def _unescape_one(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes((int(match[1], 16),))
    plain = _UNNAMED.get(match[2])
    if plain is None:
        raise DamagedError(f"malformed escape {match[0].decode('ascii', 'backslashreplace')!r}")
    return plain
