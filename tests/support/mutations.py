"""Dumps with mistakes and liberties in them, made from a correct one."""

from __future__ import annotations

import random

_NUMBERS = (
    b"", b"-", b"0", b"00", b"+5", b"-1", b"-0", b"\t7", b"\x0b8", b"0x10", b"1.5", b"5z", b"z", b"--1", b"\\x30",
    b"65", b"64", b"65535", b"65536", b"4294967295", b"4294967296", b"9223372036854775808",
    b"18446744073709551615", b"18446744073709551616", b"-18446744073709551615", b"-18446744073709551616",
    b"99999999999999999999999999", b"18446735277616529408", b"18446735277616529409", b"9007199254740992",
    b"9007199254740993", b"5000", b"5001", b"0" * 30 + b"7",
)  # fmt: skip
_MODES = (
    b"100644", b"40755", b"120777", b"20644", b"60644", b"10644", b"140644", b"@100644", b"@120777", b"@40755",
    b"0", b"644", b"170644", b"@", b"@@100644", b"8", b"+100644", b"-1", b"37777700644", b"400000100644",
    b"01777777777777777100644", b"7777777777777777777777777", b"0100644", b"@0", b"x",
)  # fmt: skip
_TIMES = (
    b"", b".", b"1", b"1.", b".1", b"-1.0", b"1.-1", b"0.0", b"1.1.1", b"18446744073709551615.5", b"5.1000000000",
    b"5.4294967295", b"5.4294967296", b"9223372036854775807.999999999", b"9223372036854775808.0", b"+1.+1", b"1.z",
    b"-5.999999999", b"1.000000001",
)  # fmt: skip
_TEXTS = (
    b"", b"-", b"--", b"\\x2d", b"\\", b"a\\", b"\\x", b"\\x4", b"\\xg0", b"\\q", b"\\x00", b"ab\\x00cd", b"\\x00ab",
    b"\\\\", b"\\n\\r\\t", b"\\X41", b"\\xAf", b"=", b"a=b", b"/", b"//", b"/a", b"a/b", b".", b"..", b"x" * 4095,
    b"x" * 4096, b"y" * 5000, b"y" * 5001, b"z" * 64, b"\\x61" * 4095, b"\xff\x01", b"ab/" + b"c" * 62,
)  # fmt: skip
_DIGESTS = (
    b"-", b"ab" * 32, b"AB" * 32, b"ab" * 32 + b"cd", b"ab" * 32 + b"zz", b"", b"ab" * 31, b"zz" * 32,
    b"ab" * 31 + b"az",
    b"\\x61\\x62" * 32, b"ab" * 32 + b"\\x00", b"ab" * 31 + b"\\x00", b"\\q",
)  # fmt: skip
_XATTRS = (
    b"", b" ", b" user.a=1", b" user.a=1 user.a=2", b" user.a=1 ", b" user.a=1  user.b=2", b" user.a", b" =x",
    b" user.b=2 user.a=1", b" user.\\x00=1", b" \\x00=1", b" user.a=b=c", b" user.a\\x3db=c", b" user.=1",
    b" user.a=\\x00\\x01", b" user.a=" + b"v" * 32000, b" user.a=" + b"v" * 33000, b" " + b"n" * 255 + b"=1",
    b" " + b"n" * 256 + b"=1", b" user.a=" + b"\\x61" * 17000, b" user.a=" + b"v" * 20000 + b" user.a=w",
    b" user.a=" + b"v" * 20000 + b" user.b=" + b"v" * 20000, b" user.a=" + b"v" * 32742, b" user.a=" + b"v" * 32743,
    b" trusted.overlay.opaque=y", b" trusted.overlay.opaque=yy", b" user.overlay.opaque=y",
    b" user.overlay.opaque=long" * 2,
    b" trusted.overlay.whiteouts=", b" trusted.overlay.whiteouts=1", b" trusted.overlay.whiteout=z",
    b" user.overlay.whiteout=abcdefgh", b" user.overlay.whiteouts=" + b"v" * 300, b" trusted.overlay.metacopy=x",
    b" trusted.overlay.redirect=/etc/shadow", b" trusted.overlay.overlay.opaque=" + b"v" * 90, b" trusted.overlay.=1",
    b" system.posix_acl_access=1", b" system.posix_acl_accessible=1", b" system.posix_acl_default=1",
    b" security.selinux=l",
    b" " + b" ".join(b"user.k%d=" % number for number in range(200)),
    b"".join(b" user.s%d=" % number for number in range(300)),
)  # fmt: skip
_CHOICES = {
    1: _NUMBERS, 2: _MODES, 3: _NUMBERS, 4: _NUMBERS, 5: _NUMBERS, 6: _NUMBERS, 7: _TIMES, 8: _TEXTS, 9: _TEXTS,
    10: _DIGESTS,
}  # fmt: skip


def mutate(dump: bytes, rng: random.Random) -> bytes:
    """``dump`` with one to three changes, most of which make a dump that is still read."""
    lines = dump.split(b"\n")[:-1]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((_field, _field, _field, _field, _path, _xattrs, _link, _lines, _byte, _whiteout))(lines, rng)
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"\n", b"", b"\n\n"))


def _split(lines: list[bytes], index: int) -> list[bytes]:
    return lines[index].split(b" ", 11)


def _field(lines: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    fields = _split(lines, index)
    number = rng.randint(1, 10)
    if number < len(fields):
        fields[number] = rng.choice(_CHOICES[number])
    if number == 9 and len(fields) > 9 and rng.random() < 0.8:  # content goes with a size
        plain = fields[9].replace(b"\\\\", b"_")
        fields[1] = b"%d" % (
            len(plain) - 3 * plain.count(b"\\x") - sum(plain.count(e) for e in (b"\\n", b"\\r", b"\\t"))
        )
    lines[index] = b" ".join(fields)


def _path(lines: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    fields = _split(lines, index)
    other = _split(lines, rng.randrange(len(lines)))[0]
    fields[0] = rng.choice((
        other, other + b"/",
        b"/" + fields[0], fields[0] + b"/", fields[0] + b"\\x00z", fields[0][1:], fields[0] + b"/.",
        fields[0] + b"/..", b"/missing/x", b"/.", b"/./a", b"", b"/" + b"n" * 255, b"/" + b"n" * 256,
        b"/" + b"\\xff" * 256,
        other + b"//new", b"///new2", b"\\x2fnew3", b"/new4\\x2fb", b"new5", other + b"/new6", b"/00", b"/fe", b"\\q",
    ))  # fmt: skip
    lines[index] = b" ".join(fields)


def _xattrs(lines: list[bytes], rng: random.Random) -> None:
    index = rng.randrange(len(lines))
    fields = _split(lines, index)[:11]
    lines[index] = b" ".join(fields) + b"".join(rng.choices(_XATTRS, k=rng.choice((1, 1, 2, 3))))


def _link(lines: list[bytes], rng: random.Random) -> None:
    """Another hard link, to anything at all."""
    target = rng.choice(
        (_split(lines, rng.randrange(len(lines)))[0],) * 6 + (b"-", b"", b"/l1", b"/l2", b"/nothing", b"/")
    )
    target = rng.choice((target, target, target, target + b"/", b"/" + target, target[1:]))
    kind = rng.choice((b"@100644", b"@120777", b"@20644", b"@40755", b"@10000"))
    line = b" ".join((rng.choice((b"/l1", b"/l2", b"/zz", b"/%01")), b"0", kind, b"1 0 0 0 0.0", target, b"- -"))
    lines.insert(rng.randint(1, len(lines)), line)


def _lines(lines: list[bytes], rng: random.Random) -> None:
    """Lines swapped, dropped, doubled, emptied or cut."""
    index = rng.randrange(len(lines))
    what = rng.randrange(6)
    if what == 0:
        other = rng.randrange(len(lines))
        lines[index], lines[other] = lines[other], lines[index]
    elif what == 1 and len(lines) > 1:
        del lines[index]
    elif what == 2:
        lines.insert(rng.randint(0, len(lines)), lines[index])
    elif what == 3:
        lines.insert(index, rng.choice((b"", b" ", b"#", b"/only")))
    elif what == 4:
        lines[index] = b" ".join(lines[index].split(b" ")[: rng.randint(1, 10)])
    else:
        lines[1:] = rng.sample(lines[1:], len(lines) - 1)


def _byte(lines: list[bytes], rng: random.Random) -> None:
    """One byte of a line changed, dropped or inserted."""
    index = rng.randrange(len(lines))
    line = bytearray(lines[index] or b"x")
    where = rng.randrange(len(line))
    byte = rng.choice(b"\0 \t-/=@\\0x9a.\xff\r")
    line[where : where + rng.randint(0, 1)] = bytes((byte,)) if rng.random() < 0.8 else b""
    lines[index] = bytes(line)


def _whiteout(lines: list[bytes], rng: random.Random) -> None:
    """A whiteout device, in some of the ways to write one."""
    parent = _split(lines, rng.randrange(len(lines)))[0]
    fields = [
        parent.rstrip(b"/") + rng.choice((b"/wh", b"/00", b"/-")),
        rng.choice((b"0", b"0", b"7", b"5000000000")),
        b"20644", b"1", b"0", b"0", rng.choice((b"0", b"0", b"4294967296", b"-0")), b"0.0", b"-", b"-", b"-",
    ]  # fmt: skip
    lines.insert(rng.randint(1, len(lines)), b" ".join(fields) + rng.choice(_XATTRS))
