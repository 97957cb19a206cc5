"""The annotation that names a volume. Pure text: nothing here touches a store, a kernel or a clock.

::

    stratum.dev/volume.<id>=<ref>:<destination>[:<option>,...]     or <option>;...

    <id>            [A-Za-z0-9][A-Za-z0-9._-]{0,62}, tells the volumes of one container apart
    <ref>           NAME, NAME+WORKTREE, NAME:TAG, NAME:HASH or a full commit HASH (see stratum.refs)
    <destination>   an absolute path in the container, from the first ":/"; no ':' in it
    <option>        ro | rw
                    create=BASE            make the worktree from the ref BASE if it is missing
                    create                 make it empty if it is missing, and the stratum too
                    uid=N gid=N mode=OCTAL owner and permissions of the root directory of a worktree that is made
                    copy-up                a worktree that is made empty begins with what the image has there
                    commit=on-stop|never   when the worktree is committed (default: on-stop, if it is mounted rw)
                    tag=TEMPLATE           move this tag of the stratum to that commit; the template may use
                                           {name} {worktree} {container} {time} {commit}
                    pre-commit=COMMAND     what /bin/sh runs in the container before a commit while it runs, and
                    post-commit=COMMAND    after it, also when the first or the commit failed; no ',' or ';' in them
                    scratch                a writable view of a tag or commit whose changes are thrown away
                    history                each change of the worktree is kept as it is written, from now on: the
                                           worktree has a history, also when the container is gone
                    lazy                   a tag that is not here is fetched from the registry of the settings: its
                                           names at once, each file when it is first read
                    prefetch=none|profile|all
                                           what is fetched of a commit that is not here whole before anybody asks

What a worktree begins with is looked at when it is made, and never again; the worktree ``main`` is made from the tag
``latest`` where ``create`` says nothing else.

NAME alone is the worktree ``main``; with ``scratch``, which wants a commit, the last commit of ``main``, or the tag
``latest`` where there is no ``main`` (see stratum.refs).

``lazy`` is for the tag that the volume shows or that a worktree is made from; it means nothing where the store has that
tag. A commit that is not here whole is read through the gate with it and without.

Options are separated by ',' or ';'. Podman before 5.0 splits what follows ``--annotation`` at commas itself, so there
only ';' keeps them together; what such a split leaves over is recognised and refused, because losing
``commit=never`` without a word would be worse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stratum.config import PREFETCHES
from stratum.errors import StratumError, UsageError, quoted
from stratum.frozen import frozen
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE, Ref, is_hash, parse_lasting
from stratum.store.holders import Container, Holder, Promise
from stratum.tree.rootchange import AS_IT_IS, RootChange, parse_id, parse_mode
from stratum.volumes.tagtemplate import check_template

DOMAIN = "stratum.dev/"
PREFIX = f"{DOMAIN}volume."

MAX_VOLUMES = 64
MAX_VALUE = 8192
MAX_PATH = 4095
MAX_COMPONENT = 255

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
_SEPARATOR = "[,;]"
_COMMIT = ("on-stop", "never")
_FLAGS = ("ro", "rw", "scratch", "copy-up", "lazy", "history")
_COMMANDS = ("pre-commit", "post-commit")
_WITH_VALUE = ("create", "commit", "tag", "uid", "gid", "mode", "prefetch", *_COMMANDS)
_ROOT = ("uid", "gid", "mode")
_RUNTIME_OWNED = ("proc", "sys")


@frozen
class Beginning:
    """What a worktree begins as that is not there yet: ``base`` is the ref of the commit that it is based on; ``empty``
    that it is based on nothing, and the stratum is made with it. With neither, only ``main`` is made, from ``latest``.
    ``root`` changes its root directory."""

    base: Ref | None = None
    empty: bool = False
    root: RootChange = AS_IT_IS


@frozen
class Volume:
    """One volume of a container.

    ``ref`` is bare for a full commit hash, or with ``scratch``; else it has a tag or a worktree. ``destination`` is
    normalised (absolute, no empty, '.' or '..' component, not '/'). ``create`` is the ref a missing worktree is made
    from, ``create_empty`` says that it is made from nothing; ``root`` and ``copy_up`` are for one that is made.
    ``commit`` is whether the worktree is committed when the container has stopped, ``tag`` the checked template of the
    tag that then moves. ``lazy`` is whether ``fetched`` may be fetched from elsewhere, ``prefetch`` what is fetched of
    the commit before anybody asks (None: what the settings say). ``history`` is whether the worktree gets a history
    where it has none. ``pre_commit`` and ``post_commit`` are commands for the container around a commit.
    """

    id: str
    ref: Ref
    destination: str
    read_only: bool
    create: Ref | None = None
    commit: bool = False
    tag: str | None = None
    scratch: bool = False
    create_empty: bool = False
    root: RootChange = AS_IT_IS
    copy_up: bool = False
    lazy: bool = False
    prefetch: str | None = None
    history: bool = False
    pre_commit: str | None = None
    post_commit: str | None = None

    @property
    def fetched(self) -> Ref | None:
        """The tag that the volume shows, or that its worktree is made from; None where that is no tag."""
        return _tag_behind(self.ref, self.create, self.create_empty)

    @property
    def gate_options(self) -> dict[str, str]:
        """What a gate in front of the volume's commit is told (``Workplace.gate``)."""
        return {"prefetch": self.prefetch} if self.prefetch is not None else {}

    @property
    def beginning(self) -> Beginning:
        """What a missing worktree begins as."""
        return Beginning(self.create, self.create_empty, self.root)

    @property
    def promise(self) -> Promise:
        """What is to be done when the worktree is given back."""
        return Promise(self.commit, self.tag, pre_commit=self.pre_commit, post_commit=self.post_commit)


def parse_volumes(annotations: Mapping[str, str]) -> list[Volume]:
    """The volumes in ``annotations``, parents before what is nested in them; other annotations are ignored.

    Raises ``UsageError`` naming the annotation for anything outside the grammar, keys of ours that name no volume
    included, for two volumes at one destination and for two volumes of one worktree.
    """
    for key in sorted(annotations):
        if key.startswith(DOMAIN) and not key.startswith(PREFIX):
            raise UsageError(
                f"annotation {quoted(key)} is not known",
                hint=f"write {PREFIX}ID=REF:/path/in/container[:OPTION;...]",
            )
    keys = sorted(key for key in annotations if key.startswith(PREFIX))
    if len(keys) > MAX_VOLUMES:
        raise UsageError(f"{len(keys)} volume annotations; a container may have {MAX_VOLUMES}")
    volumes = [_parse_annotation(key, annotations[key]) for key in keys]
    if any(_options_of(annotations[key]) for key in keys):
        _check_fragments(annotations)
    _check_pairs(volumes)
    return sorted(volumes, key=lambda volume: volume.destination.split("/"))


def _parse_annotation(key: str, value: str) -> Volume:
    try:
        return parse_volume(key[len(PREFIX) :], value)
    except StratumError as exc:
        raise UsageError(f"annotation {quoted(key)}: {exc.message}", hint=exc.hint) from None


def parse_volume(volume_id: str, value: str, holder: type[Holder] = Container) -> Volume:
    """Parse one annotation: ``volume_id`` is the key without its prefix, ``holder`` the kind of who asks.

    Raises ``UsageError``.
    """
    if not re.fullmatch(_ID, volume_id):
        raise UsageError(f"{quoted(volume_id)} is not a valid volume id", hint="use letters, digits, '.', '_' and '-'")
    if len(value) > MAX_VALUE:
        raise UsageError(f"the value has {len(value)} characters; at most {MAX_VALUE} are allowed")
    if re.search(_CONTROL, value):
        raise UsageError(f"the value {quoted(value)} has a control character or newline in it")
    ref_text, separator, path = value.partition(":/")
    if not separator:
        raise UsageError(
            f"{quoted(value)} has no absolute destination",
            hint=f"write {PREFIX}{volume_id}=REF:/path/in/container[:OPTION,...]",
        )
    path, colon, _ = path.partition(":")
    option_text = _options_of(value)
    if colon and not option_text:
        raise UsageError(f"{quoted(value)} ends in ':' without an option")
    options = _options(option_text) if colon else {}
    return _volume(volume_id, parse_lasting(ref_text), _destination("/" + path), options, holder)


def has_options_of_ours(value: str) -> bool:
    """Whether the value of an annotation has an option that no other volume has: not just ro or rw."""
    given = {item.partition("=")[0] for item in re.split(_SEPARATOR, _options_of(value))}
    return not given.isdisjoint({*_FLAGS, *_WITH_VALUE} - {"ro", "rw"})


def _options_of(value: str) -> str:
    """What follows the destination in an annotation's value."""
    return value.partition(":/")[2].partition(":")[2]


def _check_fragments(annotations: Mapping[str, str]) -> None:
    """Refuse annotations that were options of a volume before Podman split them off at a comma."""
    for key in _WITH_VALUE:
        value = annotations.get(key)
        if value is not None and _can_be_option(key, value):
            raise UsageError(
                f"the option {key}={quoted(value)[1:-1]} became an annotation of its own",
                hint="Podman before 5.0 splits --annotation at commas: separate the options by ';' and quote them",
            )


def _can_be_option(key: str, value: str) -> bool:
    try:
        _parsed_root({key: value})
    except UsageError:
        return False
    choices = {"commit": _COMMIT, "prefetch": PREFETCHES}.get(key)
    return choices is None or value in choices


def _volume(
    volume_id: str, ref: Ref, destination: str, options: Mapping[str, str | None], holder: type[Holder]
) -> Volume:
    scratch = "scratch" in options
    full = _full_ref(ref, scratch)
    read_only = "ro" in options or (full.worktree is None and not scratch)
    _check_combination(full, options)
    _check_beginning(full, options)
    _check_lazy(full, options)
    tag = options.get("tag")
    if tag is not None:
        check_template(tag, holder.field, name=full.name, worktree=full.worktree or "")
    command = next((key for key in _COMMANDS if key in options), None)
    if command is not None and holder is not Container:
        raise UsageError(f"option {command!r} runs in the container, and is for volumes in annotations")
    create = options.get("create")
    return Volume(
        id=volume_id,
        ref=full,
        destination=destination,
        read_only=read_only,
        create=parse_lasting(create) if create is not None else None,
        commit=full.worktree is not None and not read_only and options.get("commit") != "never",
        tag=tag,
        scratch=scratch,
        create_empty="create" in options and create is None,
        root=_parsed_root(options),
        copy_up="copy-up" in options,
        lazy="lazy" in options,
        prefetch=options.get("prefetch"),
        history="history" in options,
        pre_commit=options.get("pre-commit"),
        post_commit=options.get("post-commit"),
    )


def _parsed_root(options: Mapping[str, str | None]) -> RootChange:
    uid, gid, mode = (options.get(key) for key in ("uid", "gid", "mode"))
    return RootChange(
        None if uid is None else parse_id(uid, "uid"),
        None if gid is None else parse_id(gid, "gid"),
        None if mode is None else parse_mode(mode),
    )


def _full_ref(ref: Ref, scratch: bool) -> Ref:
    if scratch or not ref.bare or is_hash(ref.name):
        return ref
    return Ref(ref.name, worktree=DEFAULT_WORKTREE)


def _options(text: str) -> dict[str, str | None]:
    """``ro,create=base:tag`` -> ``{"ro": None, "create": "base:tag"}``, each option known and given once."""
    found: dict[str, str | None] = {}
    for item in re.split(_SEPARATOR, text):
        key, equals, value = item.partition("=")
        if key in _FLAGS:
            if equals:
                raise UsageError(f"option {key!r} takes no value")
        elif key in _WITH_VALUE:
            if not value and (equals or key != "create"):
                raise UsageError(f"option {key!r} needs a value: {key}=...")
        else:
            raise UsageError(
                f"unknown option {quoted(item)}",
                hint="options: ro, rw, create, create=BASE, uid=N, gid=N, mode=OCTAL, copy-up, "
                "commit=on-stop|never, tag=TEMPLATE, scratch, lazy, prefetch=none|profile|all, history, "
                "pre-commit=COMMAND, post-commit=COMMAND",
            )
        if key in found:
            raise UsageError(f"option {key!r} is given twice")
        found[key] = value if equals else None
    for key, choices in (("commit", _COMMIT), ("prefetch", PREFETCHES)):
        if found.get(key) not in (None, *choices):
            raise UsageError(f"{key}={found[key]} is not known", hint=f"use {key}={f' or {key}='.join(choices)}")
    return found


def _check_combination(ref: Ref, options: Mapping[str, str | None]) -> None:
    clashes = [
        ("ro", "rw"),
        ("ro", "scratch"),
        ("ro", "tag"),
        ("ro", "history"),
        ("scratch", "create"),
        ("scratch", "commit"),
        ("scratch", "tag"),
        ("scratch", "copy-up"),
        ("scratch", "history"),
        *((first, second) for first in ("ro", "scratch") for second in _COMMANDS),
    ]
    for first, second in clashes:
        if first in options and second in options:
            raise UsageError(f"options {first!r} and {second!r} exclude each other")
    if options.get("commit") == "never" and "tag" in options:
        raise UsageError("option 'tag' names the commit that commit=never does not make")
    if options.get("commit") == "on-stop" and "ro" in options:
        raise UsageError("commit=on-stop has nothing to commit: the volume is read-only")
    if ref.worktree is not None and "scratch" in options:
        raise UsageError(f"option 'scratch' is for a tag or commit, {ref} is a worktree")
    if ref.worktree is None and "scratch" not in options:
        needing = ("rw", "create", "commit", "tag", *_ROOT, "copy-up", "history", *_COMMANDS)
        writing = next((key for key in needing if key in options), None)
        if writing is not None:
            raise UsageError(
                f"option {writing!r} needs a worktree, {ref} is a commit and mounts read-only",
                hint="name a worktree (NAME+WORKTREE), or use 'scratch' for changes that are thrown away",
            )


def _check_beginning(ref: Ref, options: Mapping[str, str | None]) -> None:
    """Refuse options for the making of a worktree where none can be made: they would never have an effect."""
    found = next((key for key in (*_ROOT, "copy-up") if key in options), None)
    makes = "create" in options or "scratch" in options or ref.worktree == DEFAULT_WORKTREE
    if found is not None and not makes:
        raise UsageError(
            f"option {found!r} is for a worktree that is made, and {ref} is not made here",
            hint="add create=BASE, or create for an empty one; 'worktree add' has --uid, --gid and --mode",
        )


def _check_lazy(ref: Ref, options: Mapping[str, str | None]) -> None:
    """Refuse ``lazy`` where there is no tag to look for: it would never have an effect."""
    create = options.get("create")
    base = parse_lasting(create) if create is not None else None
    if "lazy" in options and _tag_behind(ref, base, "create" in options and base is None) is None:
        raise UsageError(
            f"option 'lazy' is for a tag that may have to be fetched, and {base or ref} is none",
            hint="name NAME:TAG, or a worktree that is made from one: create=NAME:TAG",
        )


def _tag_behind(ref: Ref, base: Ref | None, empty: bool) -> Ref | None:
    if ref.worktree is not None:
        if base is None and not empty and ref.worktree == DEFAULT_WORKTREE:
            base = Ref(ref.name)
        if base is None:
            return None
        ref = base
    if ref.worktree is not None or is_hash(ref.tag or ref.name):
        return None
    return Ref(ref.name, tag=ref.tag or DEFAULT_TAG)


def _destination(text: str) -> str:
    """``text`` normalised, or ``UsageError``."""
    if len(text.encode("utf-8")) > MAX_PATH:
        raise UsageError(f"the destination is longer than {MAX_PATH} bytes")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"destination {quoted(text)} has '..' in it")
    if not parts:
        raise UsageError("the destination cannot be the container's root '/'")
    if any(len(part.encode("utf-8")) > MAX_COMPONENT for part in parts):
        raise UsageError(f"destination {quoted(text)} has a name longer than {MAX_COMPONENT} bytes")
    if parts[0] in _RUNTIME_OWNED or parts == ["dev"]:
        raise UsageError(f"destination {quoted(text)} belongs to the container runtime")
    return "/" + "/".join(parts)


def _check_pairs(volumes: list[Volume]) -> None:
    destinations: dict[str, Volume] = {}
    worktrees: dict[Ref, Volume] = {}
    for volume in volumes:
        other = destinations.setdefault(volume.destination, volume)
        if other is not volume:
            raise UsageError(f"volumes {other.id} and {volume.id} have the same destination {volume.destination}")
        if volume.ref.worktree is None:
            continue
        other = worktrees.setdefault(volume.ref, volume)
        if other is not volume:
            raise UsageError(
                f"volumes {other.id} and {volume.id} are both the worktree {volume.ref}",
                hint="a worktree has one holder; mount a tag of it, or make a second worktree",
            )
