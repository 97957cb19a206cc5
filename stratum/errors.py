"""The errors that Stratum raises on purpose, each with an exit code.

Library code raises; only ``cli/`` (and the hook's and CSI driver's entry points) print or exit.
Every error says what failed, on which object and why (``message``), and what to do next (``hint``).
"""

from __future__ import annotations

EXIT_CODES = {
    0: "Done.",
    1: "Failed.",
    2: "The command itself is malformed.",
    3: "Something that was named does not exist.",
    4: "It exists already, is in use, or was changed by somebody else meanwhile.",
    5: "Damage was found.",
    6: "Not possible here: a privilege, a kernel feature or a program is missing.",
    125: "Of 'stratum run': Podman failed.",
    126: "Of 'stratum run': the container's command cannot be run. Of 'stratum unshare': its command.",
    127: "Of 'stratum run': the container's command is not there. Of 'stratum unshare': its command.",
    130: "Interrupted.",
}
"""How a command ends -> what that means."""

_QUOTED_MAX = 140
_PATH_MAX = 200


def one_line(text: str) -> str:
    """``text`` as one line that a terminal takes for text only: line breaks, other control characters and what is not
    UTF-8 are shown as escapes. File names are bytes that anyone may choose, and are shown by no other way."""
    return text if text.isprintable() else "".join(map(escaped, text))


def escaped(char: str) -> str:
    """A character as it is shown: itself where it can be printed, else an escape with a backslash."""
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def quoted(value: object) -> str:
    """``value`` quoted for a message: escapes made visible, cut to a readable length."""
    text = ascii(value)
    return text if len(text) <= _QUOTED_MAX else f"{text[: _QUOTED_MAX - 4]}...{text[-1]}"


def path_text(path: bytes) -> str:
    """A path for a message, cut to a readable length."""
    text = path.decode("utf-8", "surrogateescape")
    return text if len(text) <= _PATH_MAX else f"{text[:_PATH_MAX]}..."


class StratumError(Exception):
    """Something failed that the user can understand.

    ``exit_code`` and ``id`` belong to the class and are part of the command line's contract:
    scripts match on them. ``hint`` is one sentence on what to do next, or empty. Both are one line of printable text
    (``one_line``), whatever names they were put together from.
    """

    exit_code = 1
    id = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = one_line(message)
        self.hint = one_line(hint)
        super().__init__(self.message)

    @property
    def told(self) -> str:
        """The message, with the hint in brackets: for who has one line for both."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(StratumError):
    """The request itself is malformed: a bad ref, an option's value, a bad file given by the user."""

    exit_code = 2
    id = "usage"


class NotFoundError(StratumError):
    """A named stratum, tag, worktree, commit, path or mount does not exist."""

    exit_code = 3
    id = "not-found"


class ConflictError(StratumError):
    """The thing exists already, is in use, or was changed by somebody else meanwhile."""

    exit_code = 4
    id = "conflict"


class ExistsError(ConflictError):
    """A name that was to be made is there already."""

    id = "exists"


class BusyError(ConflictError):
    """A worktree, mount or lock is held; the message names the holder."""

    id = "busy"


class ChangedError(ConflictError):
    """What was to be replaced in a place is not any more what it was: somebody else was faster."""

    id = "changed"


class DeniedError(StratumError):
    """A registry or an object store does not let this user do it: the password is missing or wrong, or the right."""

    id = "denied"


class RefusedError(StratumError):
    """A place does not take what is pushed: it is not what it should be, or what it names is not there.

    ``code`` is what the distribution specification calls that.
    """

    def __init__(self, message: str, *, hint: str = "", code: str = "MANIFEST_INVALID") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class UnreachableError(StratumError):
    """A registry or an object store cannot be reached, or breaks off: trying again later may help."""

    id = "unreachable"


class UntrustedError(StratumError):
    """A registry's or an object store's certificate is signed by nobody who is trusted, or is for another host."""

    id = "untrusted"


class DamagedError(StratumError):
    """Stored or received data does not match its digest or its format."""

    exit_code = 5
    id = "damaged"


class UnsupportedError(StratumError):
    """Not possible here: a privilege, kernel feature or program is missing."""

    exit_code = 6
    id = "unsupported"


def foreseen(exc: Exception) -> StratumError:
    """``exc``, or what to tell and note of an error that nobody foresaw."""
    if isinstance(exc, StratumError):
        return exc
    if isinstance(exc, MemoryError):
        return StratumError(
            "there was not enough memory",
            hint="try again when there is more; 'stratum reconcile' commits what was left",
        )
    return StratumError(f"internal error: {type(exc).__name__}: {exc}")


def os_error_text(exc: OSError) -> str:
    """The kernel's own words for ``exc``, without Python's ``[Errno N]`` decoration."""
    return exc.strerror or str(exc)
