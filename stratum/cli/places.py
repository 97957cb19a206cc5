"""What verbs print about places: ``gc --place``, and the removal of tags in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from stratum.cli.app import App
from stratum.cli.output import human_size, safe
from stratum.cli.progress import progress_bar
from stratum.cli.reftype import PATH
from stratum.errors import UsageError
from stratum.frozen import frozen

if TYPE_CHECKING:
    from stratum.api.places import CollectedThere
    from stratum.oci.access import Access
    from stratum.transfer.placegc import Amount

_WORDS = {
    "manifests": "manifests",
    "metadata": "blobs of trees and indexes",
    "contents": "packs and layers",
    "names": "removed tags and lists of referrers",
    "unknown": "blobs of which no manifest is known",
}


@frozen
class There:
    """What is asked of ``gc`` about a place."""

    place: str | None
    older_than: str | None
    wait: bool
    plain_http: bool
    ca_file: str | None

    def asked(self, *, rules: bool) -> bool:
        """Whether a place is to be collected; ``rules``: whether rules for the store are given. ``UsageError``."""
        if self.place is not None:
            if rules:
                raise UsageError("rules of the store are not for --place", hint="there all that no tag leads to goes")
            return True
        if self.older_than is not None or self.wait or self.plain_http or self.ca_file is not None:
            raise UsageError(
                "--older-than, --wait, --plain-http and --ca-file are for --place", hint="add --place PLACE"
            )
        return False


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--place`` and what goes with it: together the parameter ``there``."""

    @functools.wraps(function)
    def with_place(
        *args: Any,
        place: str | None,
        older_than: str | None,
        wait: bool,
        plain_http: bool,
        ca_file: str | None,
        **kwargs: Any,
    ) -> Any:
        return function(*args, there=There(place, older_than, wait, plain_http, ca_file), **kwargs)

    for option in (
        click.option("--ca-file", metavar="FILE", type=PATH, help="With --place: trust the authorities in FILE."),
        click.option("--plain-http", is_flag=True, help="With --place: use HTTP without TLS."),
        click.option("--wait", is_flag=True, help="With --place: wait until what is marked may go, and remove it."),
        click.option(
            "--older-than", metavar="AGE", help="With --place: only what nothing has named for this time; default 24h."
        ),
        click.option(
            "--place", metavar="PLACE", help="Collect what no tag leads to in an object store: s3://BUCKET/PREFIX."
        ),
    ):
        with_place = option(with_place)
    return with_place


def collect_place(app: App, there: There, *, dry_run: bool) -> None:
    """Collect the garbage of a place, and print what went."""
    from stratum.api.places import collect_place as run

    assert there.place is not None
    access = app.session.access(plain_http=there.plain_http, ca_file=there.ca_file)
    with progress_bar(app, "looking") as advance:
        done = run(
            app.session,
            there.place,
            access,
            age=there.older_than,
            dry_run=dry_run,
            wait=there.wait,
            tell=app.out.note,
            progress=advance,
        )
    if done.last.missing:
        app.out.warn(f"{done.last.missing} blobs are named by manifests in {safe(done.place)} and are not there")
    if app.out.json:
        app.out.object(_json(done))
    else:
        _print(app, done)


def _json(done: CollectedThere) -> dict[str, Any]:
    last = done.last
    return {
        "place": safe(done.place),
        "dry_run": last.dry_run,
        "older_than": done.age,
        "time": _time(last.time),
        "tags": last.tags,
        "manifests": last.manifests,
        "manifests_read": sum(run.manifests_read for run in done.runs),
        "kept": _amount(last.kept),
        "removed": {kind: {"objects": number, "bytes": size} for kind, (number, size) in done.removed().items()},
        "waiting": {kind: _amount(amount) for kind, amount in last.waiting.items()},
        "due": _time(last.due) if last.due is not None else None,
        "missing": last.missing,
        "others": {**_amount(last.others), "keys": [safe(key) for key in last.other_keys]},
        "pushes": last.pushes,
    }


def _amount(amount: Amount) -> dict[str, int]:
    return {"objects": amount.objects, "bytes": amount.bytes}


def _time(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print(app: App, done: CollectedThere) -> None:
    last, removed = done.last, done.removed()
    word = "would remove" if last.dry_run else "removed"
    for kind, (number, size) in removed.items():
        if number:
            app.out.line(f"{word} {number} {_WORDS[kind]}, {human_size(size)}")
    waiting = [amount for amount in last.waiting.values() if amount.objects]
    if waiting and last.due is not None:
        number, size = sum(amount.objects for amount in waiting), sum(amount.bytes for amount in waiting)
        app.out.line(f"{number} objects, {human_size(size)}, may go from {_time(last.due)} on: nothing names them")
    if last.others.objects:
        shown = ", ".join(map(safe, last.other_keys[:3]))
        more = " ..." if last.others.objects > 3 else ""
        app.out.note(f"{last.others.objects} objects are none of Stratum's, and stay: {shown}{more}")
    if last.pushes:
        app.out.note(f"{last.pushes} pushes were going on, or were ended by force within a day; what they need stays")
    total = sum(size for _, size in removed.values())
    app.out.note(
        f"{word} {human_size(total)} of {safe(done.place)}; {last.tags} tags, {last.manifests} manifests and "
        f"{last.kept.objects} blobs stay, {human_size(last.kept.bytes)}"
    )


def remove_remote_tag(app: App, text: str, access: Access, *, dry_run: bool) -> None:
    """Remove a tag in a place, and say what it named."""
    from stratum.api.places import remove_remote_tag as run

    done = run(app.session, text, access, dry_run=dry_run)
    if app.out.json:
        app.out.object({"removed": [safe(done.reference)], "manifest": done.manifest, "dry_run": dry_run})
        return
    app.out.note(f"{'would remove' if dry_run else 'removed'} {safe(done.reference)}, which names {done.manifest}")
    app.out.note("its blobs stay there until 'stratum gc --place' finds that nothing names them")
