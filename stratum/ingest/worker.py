"""A worker process: reads batches of files for ``ingest.pool`` and sends back what it found.

Messages on the socket are a header (``HEADER``: number of descriptors, length) and a marshalled value. The first are
the arguments of ``Stager``; each further one is a batch, a list with one (files) per directory, whose descriptors come
with the header. Each batch is answered by one of

- ``(OK, [[FileRead or None, ...], ...])``, parallel to the batch,
- ``(SOURCE_FAILED, number of the directory, of the file, errno, text)``,
- ``(STORE_FAILED, errno, text)``.

Both ends are one version of one program, which is what marshal asks for. A worker ends at the end of file on its
socket, and is killed when the thread that started it ends, so none outlives the program that it works for.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct
from typing import Any

from stratum.errors import os_error_text
from stratum.ingest.staging import FileRead, Signature, Stager, StagingError
from stratum.sys.syscalls import die_with_parent

OK, SOURCE_FAILED, STORE_FAILED = range(3)
HEADER = struct.Struct("<IQ")
MAX_DESCRIPTORS = 128
"""Directories in one batch; SCM_MAX_FD (253) is the most that one message can carry."""

FileRequest = tuple[bytes, Signature, bool, "bytes | None", "bytes | None"]
"""Name, signature when listed, whether to read xattrs, digest that the content probably has, and the one that it had
when a file with this signature was read before."""

Request = list[list[FileRequest]]
Answer = tuple[Any, ...]


def read_batch(stager: Stager, directories: list[int], request: Request) -> Answer:
    """Read a batch, one list of files for each of ``directories`` (descriptors); the answer as described above."""
    results: list[list[FileRead | None]] = []
    try:
        for directory, files in zip(directories, request, strict=True):
            found: list[FileRead | None] = []
            results.append(found)
            for name, listed, xattrs, candidate, before in files:
                found.append(stager.read(directory, name, listed, xattrs=xattrs, candidate=candidate, before=before))
    except StagingError as exc:
        return (STORE_FAILED, exc.error.errno, os_error_text(exc.error))
    except OSError as exc:
        return (SOURCE_FAILED, len(results) - 1, len(found), exc.errno, os_error_text(exc))
    return (OK, results)


def serve(connection: socket.socket) -> None:
    """Answer batches until the other end closes the connection."""
    first = _receive(connection)
    if first is None:
        return
    stager = Stager(*first[1])
    while (message := _receive(connection)) is not None:
        directories, request = message
        answer = read_batch(stager, directories, request)
        for fd in directories:
            os.close(fd)
        body = marshal.dumps(answer)
        connection.sendall(HEADER.pack(0, len(body)) + body)


def _receive(connection: socket.socket) -> tuple[list[int], Any] | None:
    """(descriptors, value) of the next message, or None at the end."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * fds.itemsize)
    head, controls, _, _ = connection.recvmsg(HEADER.size, space, socket.MSG_CMSG_CLOEXEC)
    for _level, _kind, data in controls:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    head += _exactly(connection, HEADER.size - len(head)) if head else b""
    if len(head) < HEADER.size:
        return None
    count, length = HEADER.unpack(head)
    body = _exactly(connection, length)
    if len(body) < length or len(fds) != count:
        return None
    return list(fds), marshal.loads(body)  # noqa: S302  (from the process that started this one)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def main() -> None:
    """Serve the socket that is standard input."""
    die_with_parent()  # also in the middle of a large file
    os.umask(0o022)
    try:
        with socket.socket(fileno=0) as connection:
            serve(connection)
    except ConnectionError:
        return  # whoever started this is gone
    except MemoryError:
        raise SystemExit(1) from None  # whoever started this says what that may mean
