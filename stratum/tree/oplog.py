"""Records of a worktree's history: one operation, one line of JSON. Pure.

::

    {"n":4711,"t":"2026-11-29T23:59:01.123Z","op":"write","path":"/etc/app.conf","entry":ENTRY,"link":PATH,"was":PATH,
     "commit":HASH,"over":HASH,"why":TEXT,"by":TEXT,"container":HASH,"check":"16 hex digits"}
    {"end":4711,"check":"16 hex digits"}

without line breaks or spaces between, keys in this order, those without a value left out. Paths and entries are text
of a dump (``tree.dump``), with its escapes. ``check`` is the BLAKE2b hash, of 8 bytes, of all bytes of the line before
``,"check"``, so a changed byte is seen. What became known together is a batch: its records, in the order in which they
apply, and a line that says that it is whole. There is one way to write a record: what is read is written as it was.

An ``ENTRY`` is a line of a dump without its path and its link count: ``SIZE MODE UID GID RDEV MTIME PAYLOAD CONTENT
DIGEST [XATTR=VALUE ...]``. A regular file of more than no bytes with neither content nor digest is one whose content is
not known (``tree.model.content_unknown``).

What an operation needs besides its path:

==========  ==============================================================================================
``base``    no path; ``commit``, the tree that what follows applies to; ``over`` where the upperdir lies over another
``gap``     no path; ``why``: nobody watched from the record before until this one
``create``, ``write``, ``symlink``, ``special``, ``setattr``: ``entry``, what is there now, or ``link``
``mkdir``, ``mtime``: ``entry``, of the directory
``version`` ``entry``: what the path had and lost again within the batch; the tree stays as it was
``link``    ``link``, the path whose inode it is from now on
``rename``  ``was``, the old path; all that is below moves along. ``entry`` where it is told what moved
``delete``  nothing
==========  ==============================================================================================
"""

from __future__ import annotations

import re
from functools import lru_cache

from stratum.errors import DamagedError, StratumError, UnsupportedError, path_text
from stratum.frozen import frozen
from stratum.hashes import blake2b
from stratum.tree.dump import LINE, InodeReader, unchecked_line
from stratum.tree.escape import escape, unescape
from stratum.tree.limits import FILE_SIZE_MAX, PATH_MAX, XATTR_TEXT_MAX, check_inode, check_name, check_path
from stratum.tree.model import File, Inode, content_unknown

OPS = (
    "base",
    "gap",
    "create",
    "write",
    "version",
    "mkdir",
    "symlink",
    "special",
    "link",
    "setattr",
    "rename",
    "delete",
    "mtime",
)
"""What an operation can be; ``mtime`` is a directory whose time moved because an entry of it came or went."""
UNKNOWN = ("open", "large", "space", "thinned", "unreadable")
"""Why the content of a version is not known: still open for writing, larger than is kept, no space, thinned out by age,
could not be read."""

LOST = "what was told here is damaged or lost"
"""``why`` of a gap in the place of records: what follows, until the next base, does not make the tree that it was."""

LINE_MAX = 1 << 18
"""Bytes of a line: three paths and an entry, all of it escapes, have room."""
N_MAX = 10**12 - 1
WHY_MAX = 1000
BY_MAX = 255
"""Characters; longer ones are cut when they are written."""

_ENTRY_MAX = XATTR_TEXT_MAX + 5 * PATH_MAX
_HINT = "the log of the history was changed by hand, or the disk damaged it; 'stratum fsck' tells more"


@frozen
class Record:
    """One operation, as the log has it. ``n`` is the CHANGE; ``when`` RFC 3339 in UTC with milliseconds. Paths are
    absolute, in raw bytes. ``by`` is a program, ``container`` an ID of 64 hex digits."""

    n: int
    when: str
    op: str
    path: bytes | None = None
    entry: bytes | None = None
    link: bytes | None = None
    was: bytes | None = None
    commit: str | None = None
    why: str | None = None
    by: str | None = None
    container: str | None = None
    over: str | None = None


_set_n, _set_when, _set_op, _set_path, _set_entry, _set_by, *_SET_REST = [
    getattr(Record, name).__set__
    for name in ("n", "when", "op", "path", "entry", "by", "link", "was", "commit", "why", "container", "over")
]

# Which of path, entry, link, was, commit and over an operation has, as bits from the highest.
_PATH, _ENTRY, _LINK, _WAS, _COMMIT, _OVER = 32, 16, 8, 4, 2, 1
_EITHER = frozenset((_PATH | _ENTRY, _PATH | _LINK))
_FORMS: dict[bytes, frozenset[int]] = {
    b"base": frozenset((_COMMIT, _COMMIT | _OVER)),
    b"gap": frozenset((0,)),
    b"create": _EITHER,
    b"write": _EITHER,
    b"symlink": _EITHER,
    b"special": _EITHER,
    b"setattr": _EITHER,
    b"version": frozenset((_PATH | _ENTRY,)),
    b"mkdir": frozenset((_PATH | _ENTRY,)),
    b"mtime": frozenset((_PATH | _ENTRY,)),
    b"link": frozenset((_PATH | _LINK,)),
    b"rename": frozenset((_PATH | _WAS, _PATH | _WAS | _ENTRY)),
    b"delete": frozenset((_PATH,)),
}
_OF_ROOT = frozenset((b"setattr", b"mtime"))
_OP_NAMES = {op.encode(): op for op in OPS}

_TEXT = rb'([0-9][ !#-\[\]-~]*(?:\\["\\][ !#-\[\]-~]*)*)'  # an entry, as a string of JSON
_PLACE = rb'(/[!#-\[\]-~]*(?:\\["\\][!#-\[\]-~]*)*)'  # an absolute path of a dump
_WORDS = rb'((?:[ !#-\[\]-~]|\\(?:["\\bfnrt]|u[0-9a-f]{4}))+)'
_HASH = rb"([0-9a-f]{64})"
_CHECK = b',"check":"'
_RECORD = re.compile(
    rb'\{"n":([1-9][0-9]{0,11}),"t":"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'
    rb'\.[0-9]{3}Z)","op":"([a-z]{3,8})"'
    rb'(?:,"path":"' + _PLACE + rb'")?(?:,"entry":"' + _TEXT + rb'")?(?:,"link":"' + _PLACE + rb'")?'
    rb'(?:,"was":"' + _PLACE + rb'")?(?:,"commit":"' + _HASH + rb'")?(?:,"over":"' + _HASH + rb'")?'
    rb'(?:,"why":"' + _WORDS + rb'")?(?:,"by":"' + _WORDS + rb'")?(?:,"container":"' + _HASH + rb'")?'
    rb',"check":"([0-9a-f]{16})"\}'
)
# The most frequent record: a path with an entry, and neither escapes nor anything rare in it.
_PLAIN_RECORD = re.compile(
    rb'\{"n":([1-9][0-9]{0,11}),"t":"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'
    rb'\.[0-9]{3}Z)","op":"(create|write|version|setattr|mkdir|mtime)","path":"(/[!#-\[\]-~]+)",'
    rb'"entry":"([0-9][ !#-\[\]-~]*)"(?:,"by":"([ !#-\[\]-~]{1,255})")?,"check":"([0-9a-f]{16})"\}'
)
_END = re.compile(rb'\{"end":([1-9][0-9]{0,11}),"check":"([0-9a-f]{16})"\}')
_END_BEGINS = b'{"end"'
_CHECK_SIZE = len(_CHECK) + 16 + 2
_PLAIN = 256
"""Bytes of a path none of whose names can be too long."""
_IN_JSON = re.compile(rb"\\(.)")
_SPECIAL = re.compile(rb'["\\]')
_HASH_TEXT = re.compile(r"[0-9a-f]{64}")
_WHEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z")
_ENTRY_TEXT = re.compile(rb"[0-9][ -~]*")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def encode(record: Record) -> bytes:
    """The record's line, with its line break.

    ``why`` and ``by`` are cut where they are too long. ``UnsupportedError`` where a path is longer than any commit
    holds; ``ValueError`` for what is no record, as ``OPS`` and the table above have them.
    """
    _check(record)
    parts = [b'{"n":%d,"t":"%b","op":"%b"' % (record.n, record.when.encode(), record.op.encode())]
    if record.path is not None:
        parts.append(b',"path":"%b"' % quote_path(record.path))
    if record.entry is not None:
        parts.append(b',"entry":"%b"' % _quote(record.entry))
    for key, path in ((b"link", record.link), (b"was", record.was)):
        if path is not None:
            parts.append(b',"%b":"%b"' % (key, quote_path(path)))
    for key, text, limit in (
        (b"commit", record.commit, 64),
        (b"over", record.over, 64),
        (b"why", record.why, WHY_MAX),
        (b"by", record.by, BY_MAX),
        (b"container", record.container, 64),
    ):
        if text:
            parts.append(b',"%b":%b' % (key, _words(text[:limit])))
    return _checked(b"".join(parts))


def _check(record: Record) -> None:
    """Raise what ``encode`` raises where a record is none."""
    op = record.op.encode()
    form = _form(record.path, record.entry, record.link, record.was, record.commit, record.over)
    if form not in _FORMS.get(op, ()) or not 0 < record.n <= N_MAX or (record.op == "gap" and not record.why):
        raise ValueError(f"no record: {record}")
    if not _WHEN.fullmatch(record.when) or not _is_date(record.when[:10].encode()):
        raise ValueError(f"no time of a record: {record.when}")
    if record.entry is not None and not (_ENTRY_TEXT.fullmatch(record.entry) and len(record.entry) <= _ENTRY_MAX):
        raise ValueError(f"no entry of a record: {record.entry[:200]!r}")
    for text in (record.commit, record.over, record.container):
        if text and not _HASH_TEXT.fullmatch(text):
            raise ValueError(f"no hash in a record: {text!r}")
    problem = record.path and _op_problem(op, record.path, record.was)
    for path in (record.path, record.link, record.was):
        if path is not None and (problem := problem or _path_problem(path)):
            raise UnsupportedError(f"{path_text(path)} {problem}", hint="no history can tell of it")


def _form(*values: object) -> int:
    """Which of path, entry, link, was, commit and over there are, as bits."""
    form = 0
    for value in values:
        form = form << 1 | (value is not None)
    return form


def end_line(n: int) -> bytes:
    """The line that ends a batch whose last record is ``n``."""
    return _checked(b'{"end":%d' % n)


def parse(line: bytes) -> Record | None:
    """The record in a line, without its line break; None where there is none, or one that was changed."""
    found = _PLAIN_RECORD.fullmatch(line)
    if found is None or len(line) > _ENTRY_MAX:
        return _parse(line)
    n, when, op, path, entry, by, check = found.groups()
    if blake2b(line[:-_CHECK_SIZE], digest_size=8).hexdigest().encode() != check or not _is_plain(path):
        return _parse(line)
    if not _is_date(when[:10]):
        return None
    made = Record.__new__(Record)  # as its __init__ does, which took longer than all the rest
    _set_n(made, int(n))
    _set_when(made, when.decode())
    _set_op(made, _OP_NAMES[op])
    _set_path(made, path)
    _set_entry(made, entry)
    _set_by(made, by and by.decode())
    for set_field in _SET_REST:
        set_field(made, None)
    return made


def _parse(line: bytes) -> Record | None:
    """The same, of any record."""
    found = _RECORD.fullmatch(line) if len(line) <= LINE_MAX else None
    if found is None:
        return None
    n, when, op, path, entry, link, was, commit, over, why, by, container, check = found.groups()
    if blake2b(line[:-_CHECK_SIZE], digest_size=8).hexdigest().encode() != check or not _is_date(when[:10]):
        return None
    if _form(path, entry, link, was, commit, over) not in _FORMS.get(op, ()) or (op == b"gap" and why is None):
        return None
    try:
        if path is not None and (b"\\" in path or not _is_plain(path)):
            path = _unquote_path(path)
        values = (
            int(n),
            when.decode(),
            _OP_NAMES[op],
            path,
            entry and _unquote_entry(entry),
            link and _unquote_path(link),
            was and _unquote_path(was),
            commit and commit.decode(),
            why and _unquote_words(why, WHY_MAX),
            by and _unquote_words(by, BY_MAX),
            container and container.decode(),
            over and over.decode(),
        )
    except (ValueError, DamagedError):
        return None
    if path is not None and (path == b"/" or was is not None) and _op_problem(op, path, values[6]):
        return None
    return Record(*values)  # type: ignore[arg-type]  # what is bytes still is what was decoded


def parse_end(line: bytes) -> int | None:
    """The number in the last line of a batch, without its line break; None where it is none, or was changed."""
    found = _END.fullmatch(line) if line.startswith(_END_BEGINS) else None
    if found is None or blake2b(line[:-_CHECK_SIZE], digest_size=8).hexdigest().encode() != found[2]:
        return None
    return int(found[1])


def is_intact(line: bytes) -> bool:
    """Whether a line, without its line break, is as it was written. That is a fraction of reading it."""
    body = line[:-_CHECK_SIZE]
    return blake2b(body, digest_size=8).hexdigest().encode() == line[-18:-2] and line[len(body) : -18] == _CHECK


def when_text(nanoseconds: int) -> str:
    """A time since the epoch, not before it, as records have it."""
    from datetime import datetime, timezone

    time = datetime.fromtimestamp(nanoseconds // 1_000_000_000, timezone.utc).replace(tzinfo=None)
    return f"{time.isoformat(timespec='seconds')}.{nanoseconds // 1_000_000 % 1000:03d}Z"


def entry_of(inode: Inode) -> bytes:
    """What a record says of an inode; of a directory, without what is in it.

    ``UnsupportedError`` for what no commit can hold, but for a file whose content is not known.
    """
    checked = inode
    if isinstance(inode, File) and content_unknown(inode):
        checked = File(*inode.metadata())
        if inode.size > FILE_SIZE_MAX:
            raise UnsupportedError(f"a file of {inode.size} bytes is larger than {FILE_SIZE_MAX}")
    if problem := check_inode(checked):
        raise UnsupportedError(f"an entry {problem}", hint="no history can tell of it")
    size, mode, _, rest = unchecked_line(b"it", inode, 1)[3:].split(b" ", 3)
    return b"%b %b %b" % (size, mode, rest)


def inode_of(entry: bytes) -> Inode:
    """The inode that an entry tells of; a directory has nothing in it. ``DamagedError``."""
    fields = entry.split(b" ", 2)
    found = LINE.fullmatch(b"/ %b %b 1 %b\n" % tuple(fields)) if len(fields) == 3 else None
    if found is None or found[3]:
        raise DamagedError("an entry of a history is not in canonical form", hint=_HINT)
    groups = found.groups()
    size = int(groups[1])
    unknown = size > 0 and groups[9:12] == (b"-", b"-", b"-") and groups[3].startswith(b"10")
    if unknown:
        groups = (groups[0], b"0", *groups[2:])
    try:
        inode = _READER.read(groups)
    except StratumError as exc:
        raise DamagedError(f"an entry of a history {exc.message}", hint=_HINT) from None
    if unknown and isinstance(inode, File):
        if size > FILE_SIZE_MAX:
            raise DamagedError(f"an entry of a history is a file of {size} bytes", hint=_HINT)
        inode.size = size
    return inode


_READER = InodeReader()
"""Remembers what modes and extended attributes it read, within limits."""


def without_content(entry: bytes) -> bytes | None:
    """The entry of the same file with its content not known; None where it names no object."""
    fields = entry.split(b" ", 9)
    if len(fields) < 9 or len(fields[8]) != 64:
        return None
    fields[6:9] = b"-", b"-", b"-"
    return b" ".join(fields)


def object_of(entry: bytes) -> tuple[bytes, int] | None:
    """The digest and size of the object that an entry names, None for what is none. ``DamagedError``."""
    fields = entry.split(b" ", 9)
    if len(fields) < 9 or len(fields[8]) != 64:
        return None
    try:
        return bytes.fromhex(fields[8].decode("ascii")), int(fields[0])
    except ValueError:
        raise DamagedError("an entry of a history has a malformed digest", hint=_HINT) from None


def quote_path(path: bytes) -> bytes:
    """A path as it is between the quotes of a line: what to look for in a log."""
    return _quote(escape(path))


def _checked(body: bytes) -> bytes:
    return b'%b,"check":"%b"}\n' % (body, blake2b(body, digest_size=8).hexdigest().encode())


def _quote(text: bytes) -> bytes:
    return _SPECIAL.sub(rb"\\\g<0>", text) if _SPECIAL.search(text) else text


def _unquote(text: bytes) -> bytes:
    return _IN_JSON.sub(rb"\1", text) if b"\\" in text else text


def _unquote_entry(text: bytes) -> bytes:
    entry = _unquote(text)
    if len(entry) > _ENTRY_MAX:
        raise ValueError(text)
    return entry


def _unquote_path(text: bytes) -> bytes:
    if b"\\" not in text:
        path = text
    else:
        escaped = _unquote(text)
        path = unescape(escaped)
        if escape(path) != escaped:
            raise ValueError(text)
    if _path_problem(path):
        raise ValueError(text)
    return path


def _words(text: str) -> bytes:
    import json

    return json.dumps(text).encode("ascii")


def _unquote_words(text: bytes, limit: int) -> str:
    if b"\\" not in text:
        words = text.decode("ascii")
    else:
        import json

        words = json.loads(b'"%b"' % text)
        if _words(words) != b'"%b"' % text:
            raise ValueError(text)
    if len(words) > limit:
        raise ValueError(text)
    return words


def _op_problem(op: bytes, path: bytes, was: bytes | None) -> str | None:
    """Why an operation cannot be at that path, as the end of a sentence about it, or None."""
    if path == b"/" and op not in _OF_ROOT:
        return "is the top of the tree, which stays"
    if was is not None and (was in (b"/", path) or path.startswith(was + b"/")):
        return "is, or is below, what it was renamed from"
    return None


def _path_problem(path: bytes) -> str | None:
    """Why that is no absolute path of a tree, as the end of a sentence about it, or None."""
    if path == b"/":
        return None
    if path[:1] != b"/":
        return "is not an absolute path"
    if _is_plain(path) and b"\0" not in path:
        return None
    for name in path[1:].split(b"/"):
        if problem := check_name(name):
            return problem
    return check_path(len(path))


def _is_plain(path: bytes) -> bool:
    """Whether no name in an absolute path can be one that is not possible."""
    return len(path) < _PLAIN and b"//" not in path and b"/." not in path and path[-1] != 0x2F


@lru_cache(maxsize=1024)
def _is_date(date: bytes) -> bool:
    year, month, day = map(int, date.split(b"-"))
    if not year or not 1 <= month <= 12 or not 1 <= day <= _DAYS[month - 1]:
        return False
    return (month, day) != (2, 29) or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
