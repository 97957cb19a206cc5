"""The pages: what is at which address, for who only looks. What signed-in users do is in ``acting``.

Every address of a stratum begins with ``/s/NAME``; behind it are a letter or word, a commit (its hash, or a tag), and a
path in it, whose bytes are those of the address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from stratum.errors import NotFoundError, StratumError
from stratum.serve.page import answers, drawings, words
from stratum.serve.page.acting import Acting
from stratum.serve.page.files import Files
from stratum.serve.page.graph import Lanes
from stratum.serve.page.looking import Looking, Noted
from stratum.serve.page.visiting import Visitor, Visits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from stratum.api.session import Session
    from stratum.serve.door import Door

STRATA_PAGE = 200
TIMELINE_PAGE = 40
CHANGES_PAGE = 500
_TAGS_SHOWN = 60
_CHOICES = 200
"""Tags that can be chosen from to be compared."""
_ACTIVITY_MAX = 2000
_OTHERS = ("/v2", "/_stratum")


class _Tail(Convertor[str]):
    """The rest of an address, whatever bytes are in it: pages take it from the address as it was sent."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def routes(session: Session, door: Door, log: Callable[[str], None]) -> list[BaseRoute]:
    """The routes of the page, for an application to have at ``/`` behind its others. ``log`` is told a line of each
    failure that is not the visitor's."""
    register_url_convertor("tail", _Tail())
    visits, looking = Visits(door, log), Looking(session)
    pages, files, acting = Pages(looking), Files(looking), Acting(looking, visits, door)
    shown = {
        "/": pages.strata,
        "/usage": pages.usage,
        "/holders": pages.holders,
        "/static/{mark}/{file}": lambda request, _: answers.own_file(request.path_params["file"]),
        "/s/{name}": pages.stratum,
        "/s/{name}/c/{ref}": pages.commit,
        "/s/{name}/compare": pages.compare,
        "/s/{name}/d/{old}/{new}": pages.difference,
        "/s/{name}/d/{old}/{new}/{path:tail}": files.difference,
        "/s/{name}/t/{ref}": files.tree,
        "/s/{name}/t/{ref}/{path:tail}": files.tree,
        "/s/{name}/log/{ref}": files.log,
        "/s/{name}/log/{ref}/{path:tail}": files.log,
        "/s/{name}/raw/{ref}/{path:tail}": files.raw,
        "/s/{name}/archive/{ref}": acting.archive,
        "/s/{name}/archive/{ref}/{path:tail}": acting.archive,
        "/signin": acting.sign_in_page,
    }
    done = {"/signin": acting.sign_in, "/signout": acting.sign_out, "/s/{name}/tag": acting.tag}
    made: list[BaseRoute] = [Route(path, visits.showing(show), methods=["GET"]) for path, show in shown.items()]
    made += [Route(path, visits.acting(act), methods=["POST"]) for path, act in done.items()]
    return [*made, Route("/{path:tail}", visits.showing(_nothing), methods=["GET"])]


def _nothing(request: Request, _visitor: Visitor) -> Response:
    if request.url.path.startswith(_OTHERS):
        raise HTTPException(404)
    raise NotFoundError("There is no such page.")


class Pages:
    """Pages about the store, strata and commits."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking

    def strata(self, _request: Request, visitor: Visitor) -> Response:
        """All strata."""
        names = self._looking.names(visitor.sees)
        number, last = visitor.number("page"), max(1, -(-len(names) // STRATA_PAGE))
        number = max(1, min(number, last))
        rows = [self._summary(name) for name in names[(number - 1) * STRATA_PAGE : number * STRATA_PAGE]]
        about = {"rows": rows, "total": len(names), "page": number, "pages": last}
        about["repositories"] = self._looking.repositories(visitor.sees) if number == last else []
        return answers.page("strata.html", {"visitor": visitor, "here": "strata", **about})

    def _summary(self, name: str) -> dict[str, Any]:
        """A row; what is damaged is told where it is looked at."""
        store = self._looking.session.store
        row: dict[str, Any] = {"name": name, "tags": [], "worktrees": [], "newest": None, "problem": None}
        try:
            tags = store.tags.list(name)
            row |= {"tags": sorted(tags), "worktrees": list(store.worktrees.names(name))}
            row["newest"] = self._looking.newest(name)
        except StratumError:
            row["problem"] = "It cannot be read whole; 'stratum fsck' says why."
        return row

    def stratum(self, request: Request, visitor: Visitor) -> Response:
        """A stratum: its tags, worktrees, and the timeline."""
        looking = self._looking
        name = looking.stratum(request.path_params["name"], visitor.sees)
        number = max(1, visitor.number("page"))
        timeline, names = looking.timeline(name), looking.named(name)
        moments = timeline.upto(number * TIMELINE_PAGE + 1)
        wanted = slice((number - 1) * TIMELINE_PAGE, number * TIMELINE_PAGE)
        lanes = Lanes()
        drawn = [lanes.draw(m.commit, m.parent, loose=bool(m.missing)) for m in moments[: wanted.stop]]
        rows = list(zip(looking.noted(list(moments[wanted]), names), drawn[wanted], strict=True))
        tags = sorted(looking.session.store.tags.list(name).items(), key=lambda item: item[0])
        about: dict[str, Any] = {"rows": rows, "page": number, "older": len(moments) > wanted.stop, "name": name}
        about["lanes"] = max((beside.lanes for beside in drawn[wanted]), default=1)
        if number == 1:
            times = [words.moment(m.timestamp) for m in timeline.upto(_ACTIVITY_MAX)]
            about["activity"] = drawings.activity([time for time in times if time is not None])
            about |= {"tags": tags, "tags_shown": _TAGS_SHOWN, "choices": _CHOICES, "all_tags": "tags" in visitor.query}
            about["worktrees"] = looking.worktrees(name)
            about["more_worktrees"] = 0 if about["worktrees"] else len(looking.session.store.worktrees.names(name))
            about["pushed"] = looking.pushed(name)
            about["peers"] = looking.shared_with(name) if visitor.user is not None else []
            about["pins"] = looking.session.store.tags.pins(name)
        return answers.page("stratum.html", {"visitor": visitor, "here": "strata", **about})

    def commit(self, request: Request, visitor: Visitor) -> Response:
        """A commit: what is said of it, and what it changed."""
        looking, store = self._looking, self._looking.session.store
        name = looking.stratum(request.path_params["name"], visitor.sees)
        commit = looking.commit(name, request.path_params["ref"])
        meta, names = store.commits.meta(commit), looking.named(name)
        parent = meta.parent_commit if meta.parent_commit and store.commits.exists(meta.parent_commit) else None
        changes = looking.changes(parent, commit) if parent is not None else None
        about = {
            "name": name,
            "commit": commit,
            "meta": meta,
            "tags": names.tags.get(commit, []),
            "worktrees": names.worktrees.get(commit, []),
            "why": names.why.get(commit),
            "parent": parent,
            "changes": changes,
            "shown": changes.changes[:CHANGES_PAGE] if changes is not None else [],
            "partial": store.sources.is_partial(commit),
            "may_tag": visitor.user is not None and visitor.sees.writes(name),
        }
        return answers.page("commit.html", {"visitor": visitor, "here": "strata", **about})

    def compare(self, request: Request, visitor: Visitor) -> Response:
        """On to the difference of two commits that were chosen."""
        name = self._looking.stratum(request.path_params["name"], visitor.sees)
        old, new = (self._looking.commit(name, visitor.query.get(side, "")) for side in ("old", "new"))
        return answers.redirect(words.address("s", name, "d", old, new))

    def difference(self, request: Request, visitor: Visitor) -> Response:
        """The paths that differ between two commits."""
        looking, params = self._looking, request.path_params
        name = looking.stratum(params["name"], visitor.sees)
        old, new = looking.commit(name, params["old"]), looking.commit(name, params["new"])
        changes = looking.changes(old, new)
        last = max(1, -(-len(changes.changes) // CHANGES_PAGE))
        number = max(1, min(visitor.number("page"), last))
        about = {
            "name": name,
            "old": self._told(name, old),
            "new": self._told(name, new),
            "changes": changes,
            "shown": changes.changes[(number - 1) * CHANGES_PAGE : number * CHANGES_PAGE],
            "page": number,
            "pages": last,
        }
        return answers.page("difference.html", {"visitor": visitor, "here": "strata", **about})

    def _told(self, name: str, commit: str) -> Noted:
        from stratum.api.timeline import Moment

        meta = self._looking.session.store.commits.meta(commit)
        return self._looking.named(name).noted(Moment(commit, meta.timestamp, meta.parent_commit, ()), meta)

    def usage(self, _request: Request, visitor: Visitor) -> Response:
        """What uses the disk, drawn."""
        looking = self._looking
        if looking.session.no_store_yet:
            raise NotFoundError("There is nothing in the store yet.")
        seconds, usage = looking.usage()
        rows = [row for row in usage.strata if visitor.sees.reads(row.name)]
        about: dict[str, Any] = {"rows": rows, "seconds": int(seconds), "store": None}
        most = max((row.share.total.disk for row in rows), default=0)
        about["bars"] = [
            drawings.bar([("exclusive", row.share.exclusive.disk), ("shared", row.share.shared.disk)], most)
            for row in rows
        ]
        if looking.sees_all(visitor.sees):
            parts = [(part, size.disk) for part, size in usage.store.parts.items()]
            about |= {"store": usage.store, "whole": drawings.bar(parts, usage.store.total.disk)}
        return answers.page("usage.html", {"visitor": visitor, "here": "usage", **about})

    def holders(self, _request: Request, visitor: Visitor) -> Response:
        """Who has which worktree."""
        rows = list(self._looking.held(self._looking.names(visitor.sees)))
        return answers.page("holders.html", {"visitor": visitor, "here": "holders", "rows": rows})
