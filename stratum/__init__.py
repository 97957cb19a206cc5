"""Stratum: versioned, content-addressed, mountable state for containers.

What is public is in ``__all__``; docs/python.md says what is promised of it. Loading this loads nothing else: a name is
looked for when it is used.
"""

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    from stratum.public import Access, Change, Commit, Entry, Pushed, Store, Tree, Worktree, open_store

__all__ = [
    "Access",
    "BusyError",
    "Change",
    "Commit",
    "ConflictError",
    "DamagedError",
    "DeniedError",
    "Entry",
    "ExistsError",
    "NotFoundError",
    "Pushed",
    "Store",
    "StratumError",
    "Tree",
    "UnreachableError",
    "UnsupportedError",
    "UntrustedError",
    "UsageError",
    "Worktree",
    "__version__",
    "open_store",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Error"):
        from stratum import errors

        found = getattr(errors, name)
    else:
        from stratum import public

        found = getattr(public, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
