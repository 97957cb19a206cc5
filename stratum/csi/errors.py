"""gRPC status codes for what can go wrong."""

from __future__ import annotations

import grpc

from stratum.errors import (
    BusyError,
    ConflictError,
    DamagedError,
    DeniedError,
    ExistsError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)

Code = grpc.StatusCode


class CallError(StratumError):
    """A call is refused with the gRPC status ``code``, where the class of the error does not say it."""

    id = "call"

    def __init__(self, code: Code, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


_CODES: tuple[tuple[type[StratumError], Code], ...] = (
    (UsageError, Code.INVALID_ARGUMENT),
    (NotFoundError, Code.NOT_FOUND),
    (ExistsError, Code.ALREADY_EXISTS),
    (BusyError, Code.ABORTED),  # a lock was not to be had: try again
    (ConflictError, Code.FAILED_PRECONDITION),
    (DeniedError, Code.UNAUTHENTICATED),  # the volume's secret is missing or wrong: no use before it changes
    (UnreachableError, Code.UNAVAILABLE),
    (UntrustedError, Code.FAILED_PRECONDITION),
    (DamagedError, Code.DATA_LOSS),
    (UnsupportedError, Code.FAILED_PRECONDITION),
)


def code_of(error: StratumError) -> Code:
    """The status that answers a call which failed with ``error``."""
    if isinstance(error, CallError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def invalid(message: str, *, hint: str = "") -> CallError:
    """The request itself is wrong: repeating it is no use."""
    return CallError(Code.INVALID_ARGUMENT, message, hint=hint)


def not_found(message: str) -> CallError:
    """What the request names is not here."""
    return CallError(Code.NOT_FOUND, message)


def precondition(message: str, *, hint: str = "") -> CallError:
    """Something has to change before the call can succeed."""
    return CallError(Code.FAILED_PRECONDITION, message, hint=hint)


def already_exists(message: str) -> CallError:
    """The name is taken by something that does not fit the request."""
    return CallError(Code.ALREADY_EXISTS, message)


def aborted(message: str) -> CallError:
    """Work on the same thing is going on; the caller is to try again."""
    return CallError(Code.ABORTED, message)
