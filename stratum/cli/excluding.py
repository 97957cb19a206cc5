"""The options that leave something out of a directory, and how that is told."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.output import human_size
from stratum.cli.reftype import PATH

if TYPE_CHECKING:
    from stratum.ingest.selection import LeftOut


def exclude_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What to leave out of a directory: together the parameter ``excludes``."""

    @functools.wraps(function)
    def with_excludes(
        *args: Any,
        exclude: tuple[str, ...],
        exclude_from: tuple[str, ...],
        ignore_files: bool,
        one_file_system: bool,
        exclude_caches: bool,
        exclude_larger_than: str | None,
        **kwargs: Any,
    ) -> Any:
        from stratum.config import parse_bytes
        from stratum.ingest.selection import Excludes, read_patterns

        lines = [line for path in exclude_from for line in read_patterns(path)]
        lines += map(os.fsencode, exclude)
        largest = parse_bytes(exclude_larger_than, "--exclude-larger-than") if exclude_larger_than is not None else None
        excludes = Excludes(tuple(lines), ignore_files, one_file_system, exclude_caches, largest)
        return function(*args, excludes=excludes, **kwargs)

    for option in reversed(_EXCLUDE_OPTIONS):
        with_excludes = option(with_excludes)
    return with_excludes


_EXCLUDE_OPTIONS = (
    click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave out what fits PATTERN, as in .gitignore."),
    click.option(
        "--exclude-from", metavar="FILE", multiple=True, type=PATH, help="Leave out what fits a line of FILE."
    ),
    click.option(
        "--ignore-files/--no-ignore-files",
        default=True,
        help="Whether files .stratumignore in the directory are obeyed. They are, unless told.",
    ),
    click.option("--one-file-system", is_flag=True, help="Leave out what is mounted below the directory."),
    click.option("--exclude-caches", is_flag=True, help="Leave out what is in directories with a CACHEDIR.TAG."),
    click.option("--exclude-larger-than", metavar="SIZE", help="Leave out files of more than SIZE bytes, as in 2G."),
)


def left_out_json(left_out: LeftOut | None) -> dict[str, int] | None:
    """The counts, as JSON types; None where nothing can be left out."""
    if left_out is None:
        return None
    return {
        "files": left_out.files,
        "directories": left_out.directories,
        "file_systems": left_out.file_systems,
        "size": left_out.size,
    }


def left_out_text(left_out: LeftOut) -> str:
    """What was left out, for a note."""
    counts = (
        (left_out.files, "file", f" ({human_size(left_out.size)})"),
        (left_out.directories, "director", ""),
        (left_out.file_systems, "file system", ""),
    )
    words = []
    for count, what, more in counts:
        if count:
            ending = ("y" if count == 1 else "ies") if what == "director" else ("" if count == 1 else "s")
            words.append(f"{count} {what}{ending}{more}")
    return ", ".join(words)
