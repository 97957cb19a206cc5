"""Pages about what is in commits: directories, files as text, pictures or numbers, their differences and histories."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stratum.api.log import Logged, Wanted
from stratum.api.log import log as logged
from stratum.api.patches import patches
from stratum.api.reading import opened, pieces
from stratum.errors import NotFoundError, UnsupportedError
from stratum.serve.page import answers, contents, sides, words
from stratum.serve.page.looking import Looking, entries
from stratum.serve.page.visiting import Visitor
from stratum.tree.model import Directory, File, Inode, Symlink, lookup

if TYPE_CHECKING:
    from collections.abc import Generator

    from starlette.requests import Request
    from starlette.responses import Response

ENTRIES_PAGE = 500
LOG_MAX = 100
_TREE, _DIFFERENCE = 4, 5
"""Parts of an address before the path."""


class Files:
    """Pages about paths in commits."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking

    def _asked(self, request: Request, visitor: Visitor) -> tuple[str, str, bytes]:
        """(stratum, commit, path) of an address."""
        params = request.path_params
        name = self._looking.stratum(params["name"], visitor.sees)
        commit = self._looking.commit(name, params["ref"])
        return name, commit, words.tail(request.scope["raw_path"], _TREE)

    def tree(self, request: Request, visitor: Visitor) -> Response:
        """A directory's entries, or what a file is."""
        name, commit, path = self._asked(request, visitor)
        with self._looking.found(commit, path) as found:
            inode = found.inode
            about: dict[str, Any] = {"name": name, "commit": commit, "path": path, "inode": inode, "here": "strata"}
            about |= {"visitor": visitor, "meta": self._looking.session.store.commits.meta(commit)}
            if isinstance(inode, Directory):
                return answers.page("tree.html", about | _entries(inode, visitor))
        return answers.page("file.html", about | self._content(commit, path, inode, visitor))

    def _content(self, commit: str, path: bytes, inode: Inode, visitor: Visitor) -> dict[str, Any]:
        """How a file is shown: ``view`` is picture, text, hex, or absent for what has no content here."""
        about: dict[str, Any] = {"view": "none", "text": None, "hex": [], "can_text": False, "cut": False}
        if not isinstance(inode, File):
            return about
        try:
            _, head = self._looking.window(commit, path, 0, contents.LOOK)
        except UnsupportedError:
            return {**about, "view": "absent"}
        picture = contents.picture_type(head) if inode.size <= contents.PICTURE_MAX else None
        text = contents.is_text(head)
        usual = "picture" if picture is not None else "text" if text else "hex"
        wanted = visitor.query.get("as", usual)
        view = wanted if wanted in ("text", "hex") or (wanted == "picture" and picture is not None) else usual
        about |= {"view": view, "can_text": text, "picture": picture}
        if view == "text":
            _, data = self._looking.window(commit, path, 0, contents.TEXT_MAX)
            cut = inode.size > len(data)
            about |= {"text": contents.text_page(data, visitor.number("line")), "cut": cut}
        elif view == "hex":
            last = max(0, inode.size - 1) // contents.HEX_PAGE * contents.HEX_PAGE
            at = min(visitor.number("at", 0) // contents.HEX_PAGE * contents.HEX_PAGE, last)
            _, data = self._looking.window(commit, path, at, contents.HEX_PAGE)
            about |= {"hex": contents.hex_rows(data, at), "at": at, "last": last, "step": contents.HEX_PAGE}
        return about

    def raw(self, request: Request, visitor: Visitor) -> Response:
        """A file's bytes: a picture to be shown, anything else to be saved."""
        _, commit, path = self._asked(request, visitor)
        show = "show" in visitor.query
        reading = opened(self._looking.session, commit, os.fsdecode(path), offline=True)
        file, fd = reading.__enter__()

        def made() -> Generator[bytes]:
            try:
                yield b""
                yield from pieces(file, fd)
            finally:
                reading.__exit__(None, None, None)

        content = made()
        next(content)  # from here on its end is certain to be reached
        media_type = "application/octet-stream"
        if show:
            head = file.content or b"" if fd < 0 else os.pread(fd, contents.LOOK, 0)
            media_type = contents.picture_type(head) or media_type
        etag = f'"{file.digest.hex()}{"-s" if show else ""}"' if file.digest is not None else None
        if etag is not None and request.headers.get("If-None-Match") == etag:
            content.close()
            return answers.unchanged(etag)
        save_as = words.name_text(os.path.basename(path)) if media_type == "application/octet-stream" else None
        return answers.Streamed(content, media_type, size=file.size, save_as=save_as, etag=etag)

    def log(self, request: Request, visitor: Visitor) -> Response:
        """The commits that changed a path."""
        name, commit, path = self._asked(request, visitor)
        wanted = Wanted(limit=LOG_MAX)
        with self._looking.turn():
            found = list(logged(self._looking.session, commit, [os.fsdecode(path)], wanted))
        names = self._looking.named(name)
        has = self._looking.session.store.commits.exists
        rows = [
            (entry.commit, entry.change, names.tags.get(entry.commit.metadata_hash, []), parent and has(parent))
            for entry in found
            if isinstance(entry, Logged)
            for parent in [entry.commit.parent_commit]
        ]
        about = {"name": name, "commit": commit, "path": path, "rows": rows, "limit": LOG_MAX}
        return answers.page("log.html", {"visitor": visitor, "here": "strata", **about})

    def difference(self, request: Request, visitor: Visitor) -> Response:
        """What became of one path from a commit to another."""
        looking, params = self._looking, request.path_params
        name = looking.stratum(params["name"], visitor.sees)
        old, new = looking.commit(name, params["old"]), looking.commit(name, params["new"])
        path = words.tail(request.scope["raw_path"], _DIFFERENCE)
        store = looking.session.store
        before, after = (lookup(store.commits.open_tree(commit), path) for commit in (old, new))
        if before is None and after is None:
            raise NotFoundError("neither commit has such a path")
        about: dict[str, Any] = {"name": name, "old": old, "new": new, "path": path, "before": before, "after": after}
        about |= {"rows": [], "more": False, "why": None, "pictures": None}
        about |= {"visitor": visitor, "here": "strata"}
        about["pictures"] = self._pictures(old, new, path, before, after)
        if about["pictures"] is None and not isinstance(before or after, Directory):
            about |= self._lines(old, new, path)
        return answers.page("filediff.html", about)

    def _pictures(
        self, old: str, new: str, path: bytes, before: Inode | None, after: Inode | None
    ) -> list[bool] | None:
        """Of which sides there is a picture; None where not all sides that are there are one."""
        found = []
        for commit, inode in ((old, before), (new, after)):
            if inode is None:
                found.append(False)
                continue
            if not isinstance(inode, File) or inode.size > contents.PICTURE_MAX:
                return None
            with suppress(UnsupportedError):
                _, head = self._looking.window(commit, path, 0, contents.LOOK)
                if contents.picture_type(head) is None:
                    return None
                found.append(True)
                continue
            return None
        return found

    def _lines(self, old: str, new: str, path: bytes) -> dict[str, Any]:
        looking = self._looking
        try:
            with looking.turn():
                found = list(patches(looking.session, old, new, [os.fsdecode(path)], offline=True))
        except UnsupportedError:
            return {"why": "absent"}
        patch = next((patch for patch in found if patch.change.path == path), None)
        if patch is None:
            return {"why": "same"}
        rows = list(sides.rows_of(patch.text)) if patch.text else []
        cut = rows[: sides.ROWS_MAX]
        why = patch.why or (None if rows else "metadata" if patch.change.kind == "metadata" else "other")
        return {"rows": cut, "more": len(rows) > len(cut), "why": why, "change": patch.change}


def _entries(inode: Directory, visitor: Visitor) -> dict[str, Any]:
    """A page of a directory's entries."""
    wanted = visitor.query.get("q", "")[:200].encode("utf-8", "replace").decode()
    found = entries(inode, wanted)
    last = max(1, -(-len(found) // ENTRIES_PAGE))
    number = max(1, min(visitor.number("page"), last))
    rows = [
        {"name": name, "inode": child, "kind": kind(child), "size": child.size if isinstance(child, File) else None}
        for name, child in found[(number - 1) * ENTRIES_PAGE : number * ENTRIES_PAGE]
    ]
    first = (number - 1) * ENTRIES_PAGE + 1 if rows else 0
    return {"rows": rows, "total": len(found), "all": len(inode.children), "q": wanted, "page": number, "pages": last,
            "first": first}  # fmt: skip


def kind(inode: Inode) -> str:
    """What an entry is, in a word."""
    if isinstance(inode, Directory):
        return "directory"
    if isinstance(inode, Symlink):
        return "link"
    return "file" if isinstance(inode, File) else "special"
