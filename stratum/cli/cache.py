"""``cache``: content that can be fetched again, and images, which can be made again: the room that they may take, and
having them go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App, VerbsBelow, verb
from stratum.cli.output import human_size, safe, short
from stratum.cli.reftype import PATH

if TYPE_CHECKING:
    from stratum.api.cache import CacheStatus
    from stratum.hydrate.evict import Evicted
    from stratum.hydrate.evictable import Why
    from stratum.store.budget import Budget
    from stratum.store.imageroom import Trimmed

Counts = Mapping["Why", tuple[int, int]]
"""Why objects stay -> how many, and how many bytes they take."""


@click.group("cache", cls=VerbsBelow, invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Content that can be fetched again is a cache of where it came from: what is not read for long goes first where
    room is needed, and comes back when it is read. So are the images of commits, which mounts make.

    Without a verb: 'stratum cache status'.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(status, who=False, output_format=None, quiet=False)


@verb(
    "status",
    short_help="Show what is here of what can be fetched again.",
    examples=[
        ("What takes the room?", "stratum cache status"),
    ],
)
@click.option("--who", is_flag=True, help="Also which programs and containers had how much fetched.")
def status(app: App, who: bool) -> None:
    """Show how much content is here that can be fetched again, how much of it may go now, what stays and why, and which
    limits it has; and the same of images.

    --who tells for every mount that fetches what is read who had how much fetched since it was made: a program that
    reads all there is, such as a backup or a search, stands out.
    """
    from stratum.api.cache import cache_status

    found = cache_status(app.session)
    if app.out.json:
        app.out.object(_status_json(found))
        return
    _print_status(app, found)
    if found.problem is not None:
        app.out.warn(found.problem)
    for gate in found.gates if who else ():
        _print_gate(app, gate)


def _print_status(app: App, found: CacheStatus) -> None:
    held = found.held
    rows = [
        ("real", human_size(held.real[1]), f"{held.real[0]} objects that can be fetched again"),
        ("unreal", human_size(held.unreal[1]), f"{held.unreal[0]} objects"),
        ("evictable", human_size(held.evictable[1]), f"{held.evictable[0]} objects"),
    ]
    rows += [("stays", human_size(size), f"{count} objects: {why.value}") for why, (count, size) in held.stays.items()]
    rows += [("limit", _limit(found.budget), "of what is real"), ("min-free", f"{found.budget.min_free} %", "")]
    count, mounted, size = found.images
    rows.append(("images", human_size(size), f"{count} of commits; {mounted} mounted"))
    rows.append(("limit", _size(found.images_max), "of images"))
    rows.append(("disk", human_size(found.disk_free), f"free of {human_size(found.disk_size)}"))
    rows += [("rule", rule.word, f"{name}:{safe(path)}") for name, path, rule in found.rules]
    app.out.table(("WHAT", "SIZE", "NOTE"), rows)


def _limit(budget: Budget) -> str:
    return _size(budget.max)


def _size(limit: int) -> str:
    from stratum.config import NO_LIMIT

    return "none" if limit >= NO_LIMIT else human_size(limit)


def _print_gate(app: App, gate: Mapping[str, Any]) -> None:
    source = str(gate.get("source", "")).partition(":")[2]
    told = gate.get("fetcher")
    fetcher = told if isinstance(told, dict) else {}
    app.out.line(
        f"{safe(source)} ({short(str(gate.get('commit', '')))}), since {safe(str(gate.get('since', '')))}: "
        f"{_count(fetcher, 'objects')} objects fetched, {human_size(_count(fetcher, 'bytes'))}; "
        f"{_count(fetcher, 'hits')} of {_count(fetcher, 'asks')} reads found theirs here"
    )
    for reader in fetcher.get("readers", ()):
        where = f" in container {safe(short(reader['container']))}" if reader.get("container") else ""
        app.out.line(
            f"  {safe(str(reader.get('program')))}{where}: {_count(reader, 'objects')} objects, "
            f"{human_size(_count(reader, 'bytes'))}"
        )


def _count(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    return value if isinstance(value, int) else 0


def _status_json(found: CacheStatus) -> dict[str, Any]:
    held, (count, mounted, size) = found.held, found.images
    return {
        "real": {"objects": held.real[0], "bytes": held.real[1]},
        "unreal": {"objects": held.unreal[0], "bytes": held.unreal[1]},
        "evictable": {"objects": held.evictable[0], "bytes": held.evictable[1]},
        "stays": stays_json(held.stays),
        "max": _limit_json(found.budget.max),
        "min_free": found.budget.min_free,
        "images": {"count": count, "mounted": mounted, "bytes": size, "max": _limit_json(found.images_max)},
        "disk": {"size": found.disk_size, "free": found.disk_free},
        "rules": [{"stratum": name, "path": safe(path), "rule": rule.word} for name, path, rule in found.rules],
        "mounts": found.gates,
        "problem": found.problem,
    }


def _limit_json(limit: int) -> int | None:
    from stratum.config import NO_LIMIT

    return None if limit >= NO_LIMIT else limit


@verb(
    "evict",
    short_help="Have content go that can be fetched again.",
    examples=[
        ("Until 10 GiB are left", "stratum cache evict --to 10G"),
        ("All images that are not mounted", "stratum cache evict --images 0"),
    ],
)
@click.option("--to", metavar="BYTES", help="Until what is left takes so much, such as 10G or 0; default: the limits.")
@click.option("--images", metavar="BYTES", help="Of images: until what is left takes so much; default: their limit.")
@click.option("--older-than", metavar="DURATION", default="10m", show_default=True, help="Only what came before that.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--plain-http", is_flag=True, help="Use HTTP without TLS. Loopback addresses need no such permission.")
@click.option("--ca-file", metavar="FILE", type=PATH, help="Trust the certificate authorities in FILE.")
def evict(
    app: App,
    to: str | None,
    images: str | None,
    older_than: str,
    dry_run: bool,
    plain_http: bool,
    ca_file: str | None,
) -> None:
    """Drop content that can be fetched again: first what rules call unreal, then what was not read for longest.

    Only that goes which some place has for every commit that needs it, and was seen to have within the last hours; it
    is asked where that is longer ago. What only this store has stays, and so do what rules keep, and what a mount shows
    that could not wait for it. Who reads meanwhile is not disturbed.

    Images go that no mount shows, first those that were not mounted for longest. With one of --to and --images only
    that goes.
    """
    from stratum.api.cache import cache_evict
    from stratum.api.maintenance import parse_duration
    from stratum.config import parse_bytes

    done, trimmed = cache_evict(
        app.session,
        access=app.session.access(plain_http=plain_http, ca_file=ca_file),
        to=parse_bytes(to, "--to") if to is not None else None,
        images=parse_bytes(images, "--images") if images is not None else None,
        older_than=parse_duration(older_than).total_seconds(),
        dry_run=dry_run,
    )
    if app.out.json:
        app.out.object(
            {
                "dry_run": done.dry_run,
                "evicted_objects": done.objects,
                "evicted_images": trimmed.count,
                "bytes_freed": done.bytes + trimmed.bytes,
                "short": done.short,
                "partial_commits": done.marked,
                "stays": stays_json(done.stays),
                "problems": done.problems,
            }
        )
        return
    _print_evicted(app, done, trimmed)


def _print_evicted(app: App, done: Evicted, images: Trimmed) -> None:
    for problem in done.problems:
        app.out.warn(problem)
    if done.short:
        for line in stays_lines(done.stays):
            app.out.note(line)
        app.out.note(f"{human_size(done.short)} more were to go")
    word = "would evict" if done.dry_run else "evicted"
    of_images = f"{images.count} images, {human_size(images.bytes)}"
    app.out.note(f"{word} {done.objects} objects, {human_size(done.bytes)}, and {of_images}")


@verb(
    "limit",
    short_help="Show or set how much room the cache may take.",
    examples=[
        ("Not more than 50 GiB", "stratum cache limit --max 50G"),
        ("Images not more than 5 GiB", "stratum cache limit --images 5G"),
    ],
)
@click.option("--max", "limit", metavar="BYTES|none", help="Bytes that it may take, such as 50G.")
@click.option("--min-free", metavar="PERCENT", help="Percent of the file system that it leaves free.")
@click.option("--images", metavar="BYTES|none", help="Bytes that images may take, such as 5G.")
def limit(app: App, limit: str | None, min_free: str | None, images: str | None) -> None:
    """Show or set how much room content may take that can be fetched again, and images, in this store.

    Where a fetch would pass the limit, or leave less of the file system free than 15 %, other content goes first. Where
    a new image passes theirs, others go that no mount shows; by default it is 2 GiB, or a twentieth of the file system
    where that is less. What the settings cache_max, cache_min_free and cache_images say comes before what is set here.
    """
    from stratum.api.cache import cache_limit
    from stratum.config import parse_bytes, parse_percent

    budget, images_max = cache_limit(
        app.session,
        limit=parse_bytes(limit, "--max") if limit is not None else None,
        min_free=parse_percent(min_free, "--min-free") if min_free is not None else None,
        images=parse_bytes(images, "--images") if images is not None else None,
    )
    if app.out.json:
        limits = {"max": _limit_json(budget.max), "min_free": budget.min_free, "images": _limit_json(images_max)}
        app.out.object(limits)
    else:
        app.out.line(f"max {_limit(budget)}, min-free {budget.min_free} %, images {_size(images_max)}")


def stays_json(stays: Counts) -> list[dict[str, Any]]:
    """Why objects stay, for programs."""
    return [
        {"why": why.name.lower(), "objects": count, "bytes": size}
        for why, (count, size) in sorted(stays.items(), key=lambda item: item[0].name)
    ]


def stays_lines(stays: Counts) -> Iterable[str]:
    """The same for people."""
    for why, (count, size) in stays.items():
        yield f"{count} objects stay, {human_size(size)}: {why.value}"


cache.add_command(status)
cache.add_command(evict)
cache.add_command(limit)
