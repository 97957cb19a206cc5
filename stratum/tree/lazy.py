"""A canonical dump as a tree whose directories are read when somebody looks into them.

The dump is sorted, so a directory's lines are one stretch of it (its ``Region``), whose end is found by bisection, and
so is the line of a path. What nobody looks into costs nothing, which makes the cost of a small change to a large tree
that of the change. The dump must be one that ``read_dump`` accepts, as every dump in a store is: lines are checked as
they are read, but not whether the rest fits them.
"""

from __future__ import annotations

from binascii import unhexlify
from functools import cached_property

from stratum.errors import DamagedError, StratumError
from stratum.tree.dump import LINE, PLAIN_FILE, InodeReader
from stratum.tree.escape import unescape
from stratum.tree.limits import FILE_SIZE_MAX, check_name
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Region, Source

_STEP = 1024
_SPACE = 0x20
_COMPARED = 1 << 16
_SECOND = 10**9


class LazyDump(Source):
    """One dump and what was read of it. ``dump`` is canonical."""

    def __init__(self, dump: bytes) -> None:
        self.dump = dump
        self._read = InodeReader().read
        self._metadata: dict[bytes, tuple[int, int, int]] = {}  # mode, owner and group by their text
        self._linked: dict[bytes, Inode] = {}  # inodes with several names, by the first of them, escaped
        self._compared: Source | None = None  # the dump that differs from this one as ``_difference`` says
        self._difference = (0, 0)
        self.read_lines: dict[int, tuple[int, int, Inode]] = {}
        """``id(inode)`` -> where its line begins and ends, for everything read that is no directory and has one name;
        and the inode, so that no other can get its ``id``."""

    def root(self) -> Directory:
        """The tree; ``DamagedError`` where the first line is not that of a root directory."""
        fields, end = self.line(0)
        root = self._inode(fields)
        if fields[0] != b"/" or not isinstance(root, Directory):
            raise DamagedError("line 1 of the dump is not the root directory")
        return self._unread(root, Region(self, b"/", 0, end, len(self.dump)))

    def line(self, offset: int) -> tuple[tuple[bytes, ...], int]:
        """The fields of the line that begins at ``offset``, and where the next begins."""
        found = LINE.match(self.dump, offset)
        if found is None:
            raise DamagedError(f"the dump is not in canonical form at byte {offset}")
        return found.groups(), found.end()

    def children(self, region: Region) -> dict[bytes, Inode]:
        """Name -> inode of everything in the directory of ``region``, its subdirectories not read yet."""
        children: dict[bytes, Inode] = {}
        position, cut = region.inner, len(region.prefix)
        while True:
            position = self._plain_files(region, position, children)
            if position >= region.end:
                return children
            start = position
            fields, position = self.line(position)
            path = fields[0]
            if path[:cut] != region.prefix or check_name(unescape(path[cut:])):
                raise DamagedError(f"{path.decode('ascii')} in the dump is out of place")
            inode = self._inode(fields)
            if isinstance(inode, Directory):
                end = self._end(path + b"/", position, region.end)
                inode = self._unread(inode, Region(self, path + b"/", start, position, end))
                position = end
            elif fields[4] == b"1":
                self.read_lines[id(inode)] = start, position, inode
            children[unescape(path[cut:])] = inode

    def _plain_files(self, region: Region, position: int, children: dict[bytes, Inode]) -> int:
        """Read lines of ``PLAIN_FILE``, a third of the time that others take, as far as they follow one another; where
        the first other line begins."""
        dump, prefix, end, cut = self.dump, region.prefix, region.end, len(region.prefix)
        known, lines, match = self._metadata, self.read_lines, PLAIN_FILE.match
        while position < end and dump.startswith(prefix, position):
            found = match(dump, position + cut)
            if found is None:
                break
            name, size_text, text, seconds, nanoseconds, shard, rest = found.groups()
            size, metadata = int(size_text), known.get(text)
            if not INLINE_MAX < size <= FILE_SIZE_MAX:
                break
            if metadata is None:
                mode, _, uid, gid, _ = text.split(b" ")
                metadata = known[text] = int(mode, 8), int(uid), int(gid)
            digest = unhexlify(shard + rest)
            file = File(*metadata, int(seconds) * _SECOND + int(nanoseconds), size=size, digest=digest)
            start, position = position, found.end()
            lines[id(file)] = start, position, file
            children[name] = file
        return position

    @staticmethod
    def _unread(directory: Directory, region: Region) -> Directory:
        directory.region = region
        del directory.children
        return directory

    def _inode(self, fields: tuple[bytes, ...]) -> Inode:
        """The inode of a line; one that has several names is made only once."""
        try:
            path = fields[9] if fields[2] else fields[0]
            known = self._linked.get(path)
            if known is not None:
                return known
            if fields[2]:
                fields, _ = self.line(self.find(path))
            inode = self._read(fields)
        except StratumError as exc:
            raise DamagedError(f"{fields[0].decode('ascii')} in the dump {exc.message}") from None
        if fields[4] != b"1" and not isinstance(inode, Directory):
            self._linked[path] = inode
        return inode

    def _end(self, prefix: bytes, start: int, limit: int) -> int:
        """Where the lines that begin with ``prefix`` end, the first of which would be at ``start``."""
        dump = self.dump
        if not dump.startswith(prefix, start):
            return start
        low, high, step = start, limit, _STEP
        while low + step < limit:  # in ever longer steps while the prefix is there, since most directories are small
            line = dump.rfind(b"\n", low, low + step) + 1
            if line > low:
                if not dump.startswith(prefix, line):
                    high = line
                    break
                low = line
            step *= 2
        while (line := self._line_between(low, high)) < high:
            if dump.startswith(prefix, line):
                low = line
            else:
                high = line
        return high

    def same_bytes(self, ours: Region, theirs: Region) -> bool:
        """Whether two regions of one size, here and in another dump, have the same lines.

        Where the last two that were compared differ is remembered: directories inside them most likely differ there,
        and to compare what is left again at every level would cost the square of the depth.
        """
        source, (at, other_at) = theirs.source, self._difference
        if (
            self._compared is source
            and ours.start <= at < ours.end
            and theirs.start <= other_at
            and at - ours.start == other_at - theirs.start
        ):
            return False
        for start in range(ours.start, ours.end, _COMPARED):
            size, other_start = min(_COMPARED, ours.end - start), theirs.start + start - ours.start
            left, right = self.dump[start : start + size], source.dump[other_start : other_start + size]
            if left != right:  # slices: memoryviews are compared byte by byte
                index = next(index for index in range(size) if left[index] != right[index])
                self._compared, self._difference = source, (start + index, other_start + index)
                return False
        return True

    def _line_between(self, low: int, high: int) -> int:
        """Where a line near the middle of two lines begins; ``high`` where there is none between them."""
        line = self.dump.rfind(b"\n", low, (low + high) // 2) + 1
        return line if line > low else self.dump.find(b"\n", low, high) + 1 or high

    def find(self, path: bytes) -> int:
        """The offset of the line of an escaped path; ``DamagedError`` where there is none."""
        wanted = _order(path)
        low, high = 0, len(self.dump)
        while (line := self._line_between(low, high)) < high:
            if _order(self._path(line)) <= wanted:
                low = line
            else:
                high = line
        if self._path(low) != path:
            raise DamagedError("is a hard link to nothing")
        return low

    def _path(self, offset: int) -> bytes:
        end = self.dump.find(b" ", offset)
        return self.dump[offset : end if end >= 0 else None]

    @cached_property
    def link_offsets(self) -> list[int]:
        """The offsets of all lines whose inode has several names, sorted."""
        dump, offsets = self.dump, set()
        targets = set()
        at = dump.find(b"@")  # a byte alone is found many times faster than two
        while at >= 0:
            if dump[at - 1] == _SPACE:
                line = dump.rfind(b"\n", 0, at) + 1
                fields, _ = self.line(line)
                if fields[2]:
                    offsets.add(line)
                    targets.add(fields[9])
            at = dump.find(b"@", at + 1)
        offsets.update(map(self.find, targets))
        return sorted(offsets)


def _order(path: bytes) -> list[bytes]:
    """What lines are sorted by."""
    return [unescape(name) for name in path.split(b"/")] if path != b"/" else []
