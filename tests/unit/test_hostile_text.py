"""Everything that Stratum parses, fed with what it should not be: always an answer or one of Stratum's own errors."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratum.api.maintenance import parse_duration
from stratum.api.patchset import parse_patchset
from stratum.c4 import reader as c4m
from stratum.c4.ids import parse as parse_c4_id
from stratum.composefs.erofs.reader import Image
from stratum.composefs.erofs.writer import image_pieces
from stratum.config import load_config
from stratum.content.objectstore import read_record
from stratum.csi.hooks import PREFIX, parse_hooks
from stratum.csi.kubelet import parse_note
from stratum.csi.population import Work, held, read_claim, read_secret, read_source, without, work_of
from stratum.errors import DamagedError, StratumError
from stratum.fs.address import split_path
from stratum.history.pending import parse_pending
from stratum.hook.ocistate import BadStateError, parse_bundle, parse_called, parse_state
from stratum.hydrate.profile import Entry, read_profile, write_profile
from stratum.mount.record import record_from_json
from stratum.oci.anymanifest import read_any_manifest
from stratum.oci.awskeys import read_sections
from stratum.oci.azurekeys import read_connection
from stratum.oci.bucketerrors import Place, failure
from stratum.oci.challenge import read_challenges
from stratum.oci.descriptor import MalformedError
from stratum.oci.imageindex import LAYOUT_VERSION, check_version, digest_of_tag, read_entries, tags_of
from stratum.oci.links import Links, links_of
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.names import read_names
from stratum.oci.objectstore import read_tag
from stratum.oci.peerclient import read_shared
from stratum.oci.referrers import read_referrers
from stratum.oci.sweeprecord import LOOKING, PushRecord, SweepRecord, Who, read_push, read_sweep
from stratum.oci.target import is_repository, parse_target
from stratum.oci.transport import origin
from stratum.peers.cards import Card, parse_address, parse_card
from stratum.peers.keys import certificate_in, check_certificate, make_key_file
from stratum.podman.commandline import Grammar, parse_line
from stratum.refs import parse_ref, split_ref_path
from stratum.serve.door import Door, parse_basic
from stratum.serve.page.signing import Signing
from stratum.serve.page.visiting import own_address, parse_form
from stratum.serve.page.words import name_html, tail
from stratum.serve.passwords import parse_passwords
from stratum.serve.ranges import UnsatisfiableError, parse_chunk, parse_count, parse_range
from stratum.serve.refusals import Refusal
from stratum.store.budget import parse_budget
from stratum.store.catalog import Blob, Catalog, NewPack, write_catalog
from stratum.store.catalogchange import ChangedCatalog, write_change
from stratum.store.clock import utc_now
from stratum.store.keeping import parse_rules
from stratum.store.metadata import CommitMeta
from stratum.store.moves import Shown, State, read_state, state_text
from stratum.store.moving import parse_plan
from stratum.store.offers import Blob as OfferedBlob
from stratum.store.offers import Offer, OfferedPack, read_offer, read_pack, write_offer, write_pack
from stratum.store.peerbook import Book, Peer, format_book, parse_book
from stratum.store.promises import parse_promises
from stratum.store.reflog import parse_entry
from stratum.store.runs import read_run
from stratum.store.segments import pack, split_lines, unpack, whole_end
from stratum.store.sources import CommitSource, read_sources, write_sources
from stratum.store.tables import read_tables, write_tables
from stratum.store.treerecord import decode as read_tree_record
from stratum.store.treerecord import encode as write_tree_record
from stratum.store.treerecord import small_whole
from stratum.sync.moves import Move, move_text, read_move
from stratum.sync.wire import message_text, read_message
from stratum.sys.fanotify import parse_closes, parse_names
from stratum.sys.freezer import cgroup_of
from stratum.transfer.artifact import read_manifest
from stratum.transfer.knownmanifests import read_part, read_tags, write_part, write_tags
from stratum.transfer.marks import Mark, read_chunk, write_chunk
from stratum.transfer.packs import read_index
from stratum.tree.contents import named_digests, named_objects, objects_of
from stratum.tree.dump import read_dump, write_dump
from stratum.tree.ignore import Rules, lines_of, parse_patterns
from stratum.tree.lazy import LazyDump
from stratum.tree.model import Directory, File, Symlink
from stratum.tree.oplog import Record, encode, end_line, entry_of, inode_of, object_of, parse, without_content
from stratum.tree.tarstream import TarReader
from stratum.tree.timewords import parse_when
from stratum.tree.zstdframe import compress, decompress
from stratum.volumes.policy import parse_policy
from stratum.volumes.request import parse_volumes
from stratum.volumes.tagtemplate import render_tag
from tests.support.effort import examples

NOON = datetime(2026, 11, 29, 12, tzinfo=timezone.utc)
HASH = "0123456789abcdef" * 4
META = CommitMeta(HASH, HASH, "2026-01-01T00:00:00Z", 1, 2, 3, 4, HASH, "why", {"kind": "import"}).to_toml()
DUMP = (
    b"/ 0 40755 3 0 0 0 1.5 - - -\n/a 3 100644 2 0 0 0 0.0 - abc -\n/b 0 @100644 2 0 0 0 0.0 /a - -\n"
    b"/d 0 40755 2 0 0 0 0.0 - - - user.x=1\n/d/s 1 120777 1 0 0 0 0.0 x - -\n"
)
TREE = Directory(0o40755, 0, 0, 0, children={b"f": File(0o100644, 0, 0, 5, ((b"user.a", b"b"),), size=1, content=b"c")})
TREE.children[b"o"] = File(0o100644, 0, 0, 5, size=99, digest=bytes(32))
TREE.children[b"l"] = Symlink(0o120777, 0, 0, 5, target=b"f")
IMAGE = b"".join(image_pieces(TREE))
SOURCES = write_sources(
    [CommitSource(f"example.org/a@sha256:{HASH}", f"sha256:{HASH}", "v1", "2026-01-01T00:00:00Z", "pull", True, "/ca")]
)
CATALOG = write_catalog([NewPack(Blob(bytes(32), 200), [(100, 4096), (99, 50)], [(b"d" * 32, 512, 3600)])])
CHANGE = write_change(Catalog(CATALOG), {0: 0}, [NewPack(Blob(b"1" * 32, 9), [(9, 900)], [(b"e" * 32, 512, 36)])], {})
NAME_EVENT = (
    struct.pack("=IBBHQii", 84, 3, 0, 24, 0x100, -1, 7)
    + struct.pack("=BBHQIi8s4s", 2, 0, 32, 0, 8, 1, b"12345678", b"ab\0\0")
    + struct.pack("=BBHQIi8s", 1, 0, 28, 0, 8, 1, b"12345678")
)
ENTRY = b"70 100644 1 2 0 5.3 ab/%b - ab%b user.a=b" % (b"ab" * 31, b"ab" * 31)
OPERATION = encode(Record(7, "2026-11-29T23:59:01.123Z", "create", b"/a b", ENTRY, by="vi"))
PENDING = (
    b'{"n":1,"ref":"a+b","key":[1,2],"signature":[1,2,1,4,5],"size":1,"digest":null,"content":"eA==","unknown":null,'
    b'"when":9,"handle":"ab","path":"L2E=","mode":33188,"actor":[7,8,"vim",null]}\n{"moved":"ab","path":"L2I="}\n{"done":[1]}\n'
)
KNOWN = write_part([(HASH, Links([HASH], [HASH], [], HASH), 5, "v")])
CERTIFICATE = certificate_in(make_key_file(), "a file")
CARD = str(Card("attic", CERTIFICATE)).encode()
BOOK = format_book(Book("me", {"a": Peer("a", CERTIFICATE, "2026-01-01T00:00:00Z", "h:1", {"app": True})}))
MOVE = move_text(Move("t", HASH, (), "h~" + "0" * 16, 1, lineage=(HASH,)))
PACK_INDEX = b"stratum-index 1\nframe 100 4096\nobject %b 1536 2000\n" % HASH.encode()


def small_tar() -> bytes:
    """An archive with a member of each kind that needs more than a plain header."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("n" * 120)
        member.size, member.pax_headers = 3, {"SCHILY.xattr.user.x": "1"}
        tar.addfile(member, io.BytesIO(b"abc"))
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.LNKTYPE, "n" * 120
        tar.addfile(member)
    return archive.getvalue()[:5120]


TAR = small_tar()
VOLUME = "app+dev:/data:rw,commit=on-stop,tag={name}-{time}"


def oci_index(data: bytes) -> str:
    entries = read_entries(data, "a file")
    return digest_of_tag(entries, (tags_of(entries) or ["latest"])[0], "a file")


def read_whole_catalog(data: bytes, whole: Catalog | None = None) -> None:
    """Everything that a catalog, or a change of ``whole``, leads to, checked and not."""
    found = Catalog(data) if whole is None else ChangedCatalog(whole, data)
    for member in found.members():
        found.find(member.digest)
        for number in range(*found.frames_of(member)):
            found.frame(number)
            found.members_within(number, number + 1)
    found.check()


class Anybody(Door):
    """Everybody is a user."""

    def __init__(self) -> None:
        pass

    def stamp(self, user: str) -> bytes:
        return b""


def read_whole_image(data: bytes) -> None:
    """Everything in an image."""
    image = Image(data)
    for nid in image.all():
        node = image.node(nid)
        for read in (image.xattrs, image.content, image.target):
            with suppress(DamagedError):
                read(node)


def read_whole_tar(data: bytes) -> int:
    """The bytes in all members, at most a million of them being looked at."""
    reader, size = TarReader(io.BytesIO(data).read, "an archive"), 0
    for member in reader:
        for piece in reader.data(member):
            size += len(piece)
            if size > 1_000_000:
                return size
    return size


def read_segment(data: bytes) -> None:
    """A sealed segment, and the same as a raw one."""
    for block in (*unpack(data), data[: whole_end(data)]):
        for line in split_lines(block):
            operation(line)


def operation(line: bytes) -> None:
    record = parse(line)
    assert record is None or encode(record) == line + b"\n"


def entry(data: bytes) -> None:
    """All that is asked of an entry."""
    without_content(data)
    object_of(data)
    assert entry_of(inode_of(data)) == data


def served(data: bytes) -> object:
    """What the server reads of a request's headers."""
    with suppress(Refusal, UnsatisfiableError):
        return (
            parse_range(text(data), 1000),
            parse_chunk(text(data)),
            parse_count(text(data), 9),
            parse_basic(text(data)),
        )
    return None


def cluster_object(data: bytes) -> None:
    """What the populator reads of an object that may say anything."""
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict):
            claim = read_claim(found)
            if claim is not None and work_of(claim, "n") in Work:
                assert without(claim, "n")["finalizers"] == held(claim, "n")["finalizers"][:-1]
            read_secret(found)
            read_source(found)


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "ref": (lambda data: parse_ref(text(data)), b"name+tree"),
    "change": (lambda data: parse_ref(text(data)), b"name+tree@4711"),
    "past ref": (lambda data: parse_ref(text(data)), b"name+tree@{2026-11-20 14:00}~2^"),
    "path in a ref": (lambda data: split_ref_path(text(data)), b"name:tag@{14:00}~1:/path/a"),
    "path of a URL": (lambda data: split_path(text(data)), b"reg.example:5000/app/x:v1@sha256:%b/a:/b" % HASH.encode()),
    "duration": (lambda data: parse_duration(text(data)), b"1d12h"),
    "moment": (
        lambda data: parse_when(text(data), NOON, lambda moment: moment.replace(tzinfo=NOON.tzinfo)),
        b"2d3h ago",
    ),
    "range of a request": (served, b"bytes=0-99"),
    "chunk of an upload": (served, b"0-99"),
    "password of a request": (served, b"Basic YW5uYTpzZWNyZXQ="),
    "users and their passwords": (parse_passwords, b"anna:$2b$10$" + b"a" * 53),
    "target": (lambda data: parse_target(text(data)), b"example.org:5000/a/b:tag@sha256:" + HASH.encode()),
    "layout": (lambda data: parse_target(text(data)), b"oci:/some/dir:tag"),
    "bucket": (lambda data: parse_target(text(data)), b"s3://name/a/b:tag?endpoint=http://[::1]:9000&region=auto"),
    "tables of object stores": (
        lambda data: load_config({"STRATUM_PLACES": text(data)}),
        b'{"s3://data": {"endpoint": "https://s3.example.com", "anonymous": true}}',
    ),
    "profiles of AWS": (
        lambda data: read_sections(text(data), "a file"),
        b"[default]\naws_access_key_id = a\n[profile b]\ns3 =\n  endpoint_url = https://c\n",
    ),
    "connection string": (
        lambda data: read_connection(text(data)),
        b"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=YQ==;EndpointSuffix=core.windows.net",
    ),
    "error of an object store": (
        lambda data: failure(ValueError(text(data)), "do it", Place("s3://a", "host")),
        b"Error performing GET http://host/a in 1ms - Server returned non-2xx status code: 403 Forbidden: <Error><Code>"
        b"AccessDenied</Code><Message>no &amp; never</Message></Error>",
    ),
    "tag of an object store": (
        lambda data: read_tag(data, "v1", "a place"),
        b'{"mediaType":"%b","digest":"sha256:%b","size":5}' % (MANIFEST_MEDIA_TYPE.encode(), HASH.encode()),
    ),
    "metadata": (lambda data: CommitMeta.from_toml(data, "a file"), META),
    "tables": (lambda data: read_tables(data, "a file"), write_tables({"lease": {"container": "c"}}, "x")),
    "catalog": (read_whole_catalog, CATALOG),
    "change of a catalog": (lambda data: read_whole_catalog(data, Catalog(CATALOG)), CHANGE),
    "sources": (lambda data: read_sources(data, "a file"), SOURCES),
    "patterns": (
        lambda data: Rules(parse_patterns(lines_of(data))).verdict(data[:4096], data[-9:], True),
        b"*.log\n/a/**/b?\n!d/[a-z]*\\ \n[!]-]/[[:alpha:]]\n# text\n",
    ),
    "plan of a move": (
        lambda data: parse_plan(data, "a file"),
        b'[moving]\npath = "/srv/a%FFb"\nname = "app:latest"\nkeeps = true\nparent = 2\ninode = 3\nplace = 4\n',
    ),
    "residence": (lambda data: parse_rules(data, "a file"), b'[residence]\n"/" = "real"\n"/a\\\\x20b" = "unreal"\n'),
    "budget": (lambda data: parse_budget(data, "a file"), b"[cache]\nmax = 10\nmin_free = 15\n"),
    "references": (lambda data: read_record(data, "a content", "a key"), b'{"references": 2, "removing": false}\n'),
    "note of a kubelet": (parse_note, b'{"driverName":"csi.stratum.dev","volumeHandle":"a+b","specVolID":"c"}'),
    "reflog": (parse_entry, b'{"when":"2026","kind":"tag","which":"a","old":null,"new":"%b","why":""}' % HASH.encode()),
    "operation": (operation, OPERATION[:-1]),
    "pending": (parse_pending, PENDING),
    "entry": (entry, ENTRY),
    "dump": (read_dump, DUMP),
    "segment": (read_segment, b"".join(pack(OPERATION + end_line(7)))),
    "zstd": (lambda data: decompress(data, len(DUMP), "a frame"), compress(DUMP)),
    "tree-record": (lambda data: read_tree_record(data, HASH, "a file"), write_tree_record(small_whole(DUMP), HASH)),
    "patchset": (
        lambda data: parse_patchset(text(data), "a file"),
        b'[patchset]\nbase = "a:b"\npatches = ["c", "d+e"]\n',
    ),
    "object of a cluster": (
        cluster_object,
        b'{"metadata":{"namespace":"a","name":"b","uid":"c","annotations":{"volume.kubernetes.io/selected-node":"n"},'
        b'"finalizers":["x/y"]},"data":{"k":"YQ=="},"spec":{"source":"h.example/r","pullPolicy":"Always","secretRef":'
        b'{"name":"s"},"dataSourceRef":{"apiGroup":"csi.stratum.dev","kind":"StratumSource","name":"d"}}}',
    ),
    "policy": (lambda data: parse_policy(data, Path("/policy")), b'[podman]\nallow = [{ strata = ["a*"] }]\n'),
    "annotations": (lambda data: parse_volumes({"stratum.dev/volume.a": text(data)}), VOLUME.encode()),
    "annotations of pods": (
        lambda data: parse_hooks({f"{PREFIX}{key}": text(data) for key in ("pre-commit", "timeout", "container")}),
        b'["/bin/sh", "-c", "sync"]',
    ),
    "cgroups of a process": (
        lambda data: cgroup_of(text(data), "31 1 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "pod-1".__eq__),
        b"6:freezer:/kubepods/pod-1/c\n0::/kubepods.slice/pod-1/c\n",
    ),
    "volume-id": (lambda data: parse_volumes({"stratum.dev/volume." + text(data): VOLUME}), b"data"),
    "state": (parse_state, b'{"ociVersion":"1.0.2","id":"c","status":"creating","pid":1,"bundle":"/b"}'),
    "line of podman run": (
        lambda data: parse_line(text(data).split(), Grammar({"rm": False, "env": True}, {"e": "env"}), "--net".__eq__),
        b"--rm -e A=b --net host -- image",
    ),
    "containers of Podman": (
        lambda data: parse_called(data, "c"),
        b'[{"id":"c","names":["box"],"metadata":"{\\"name\\":\\"box\\",\\"image-name\\":\\"a/b:1\\"}"}]',
    ),
    "bundle": (lambda data: parse_bundle(data, Path("/b")), b'{"root":{"path":"rootfs"},"linux":{"uidMappings":[]}}'),
    "template": (lambda data: template(text(data)), b"{name}-{worktree}-{container}-{time}-{commit}"),
    "manifest": (lambda data: read_manifest(data, "a place"), b'{"schemaVersion":2,"layers":[],"config":{}}'),
    "any manifest": (
        read_any_manifest,
        b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%b","size":2},"layers":[],"subject":null}'
        % HASH.encode(),
    ),
    "pack that is offered": (
        read_pack,
        write_pack(OfferedPack(OfferedBlob(HASH, 5), OfferedBlob(HASH, 6), None, [(b"x" * 32, 7)])),
    ),
    "offer": (
        lambda data: read_offer(HASH, data),
        write_offer(Offer(HASH, OfferedBlob(HASH, 5), (OfferedBlob(HASH, 6),))),
    ),
    "referrers": (
        lambda data: read_referrers(data, "x", "a place"),
        b'{"manifests":[{"mediaType":"%b","digest":"sha256:%b","size":5,"artifactType":"x","annotations":{}}]}'
        % (MANIFEST_MEDIA_TYPE.encode(), HASH.encode()),
    ),
    "links": (
        links_of,
        b'{"config":{"digest":"sha256:%b"},"layers":[],"manifests":[],"subject":{"digest":"sha256:%b"}}'
        % (HASH.encode(), HASH.encode()),
    ),
    "sweep": (
        read_sweep,
        SweepRecord("a" * 32, Who("h", 1, 2, "", ""), LOOKING, "b" * 32, None, 0, ("tags/a",)).to_bytes("c"),
    ),
    "push": (read_push, PushRecord(1.5, "tags/a", HASH, (HASH,), (HASH,)).to_bytes()),
    "marks": (read_chunk, write_chunk([Mark("tags/a", 1, 2.0, 3.0)])),
    "known manifests": (read_part, KNOWN),
    "known tags": (read_tags, write_tags({"tags/a": ("v", 1.0, HASH)})),
    "names-of-registry": (
        lambda data: read_names(data, "repositories", is_repository, "a place", "them"),
        b'{"repositories":["a/b"]}',
    ),
    "oci-index": (oci_index, b'{"manifests":[{"digest":"sha256:%b"}]}' % HASH.encode()),
    "oci-layout": (lambda data: check_version(data, "a file"), LAYOUT_VERSION),
    "profile": (read_profile, write_profile([Entry(b"x" * 32), Entry(b"y" * 32, 3, 4)])),
    "pack-index": (lambda data: read_index(compress(data), 3000, "a pack"), PACK_INDEX),
    "tree-objects": (objects_of, DUMP),
    "named-objects": (lambda data: named_objects(data.decode("latin-1")), DUMP),
    "named-digests": (lambda data: named_digests(data.decode("latin-1")), DUMP),
    "runs": (read_run, b'{"freed": 4096, "commits": 1, "time": 1700000000}'),
    "lazy-dump": (lambda data: write_dump(LazyDump(data).root()), DUMP),
    "image": (read_whole_image, IMAGE),
    "tar": (read_whole_tar, TAR),
    "challenge": (
        lambda data: read_challenges([text(data)]),
        b'Basic a="b", Bearer realm="https://h/t",service="s\\""',
    ),
    "token-realms": (
        lambda data: load_config({"STRATUM_TOKEN_REALMS": text(data)}),
        b"example.org:5000=https://example.org/token,b=http://[::1]:1",
    ),
    "name-events": (parse_names, NAME_EVENT),
    "close-events": (parse_closes, NAME_EVENT[:24]),
    "c4 id": (lambda data: parse_c4_id(text(data)), b"c4" + b"1" * 88),
    "c4m": (
        lambda data: c4m.read(c4m.split_lines([data], "a file"), "a file"),
        b"-rw-r--r-- - 1,234 a\\ b.[1-3].exr ->2 -\ndrwxr-xr-x Jan  1 10:00:00 2025 PST - d/ <- nas:b\n"
        b"  - - - \xc2\xa4\xe2\xa0\x81\xc2\xa4\n"
        b"c4" + b"1" * 88 + b"\nlrwxrwxrwx 2025-01-01T00:00:00Z 0 l -> c4 -\n",
    ),
    "card of a peer": (lambda data: check_certificate(parse_card(text(data)).certificate), CARD),
    "certificate of a peer": (check_certificate, CERTIFICATE),
    "address of a peer": (lambda data: parse_address(text(data)), b"https://[::1]:5443/"),
    "book of peers": (lambda data: parse_book(data, "a file"), BOOK),
    "move of a tag": (read_move, MOVE),
    "message of moves": (lambda data: read_message(data, "a peer"), message_text([HASH], [MOVE])[0]),
    "state of moves": (read_state, state_text(State({"t": Shown(HASH, (HASH,), ((b"/a", HASH, HASH),))}))),
    "promises": (lambda data: parse_promises(data, "a file"), b'[promise.%b]\nab = "app 0"\n' % HASH.encode()),
    "what a peer shares": (lambda data: read_shared(data, "it"), b'{"strata": [{"name": "app", "may": "write"}]}'),
    "form of a page": (lambda data: own_address(parse_form(data).get("next", "")), b"user=anna&next=%2Fs%2Fapp&x=+"),
    "address of a page": (lambda data: name_html(tail(data, 4)), b"/s/app/t/v1/a%20b/%FF%0A"),
    "cookie of a page": (lambda data: Signing(Anybody()).user(text(data), 0.0), b"99.YW5uYQ==." + HASH.encode()),
    "url": (lambda data: origin(text(data)), b"https://[::1]:5000/v2/?a=b"),
}


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def template(value: str) -> str:
    return render_tag(value, {"container": "c" * 64}, name="a", worktree="b", commit=HASH, time=utc_now())


@st.composite
def variants(draw: st.DrawFn, seed: bytes) -> bytes:
    """Something close to ``seed``, or nothing like it."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        where = draw(st.integers(0, len(data)))
        data[where : where + draw(st.integers(0, 8))] = draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b"\x1b[31m", b"\n", b"\0", b"[" * 3000, b"{" * 3000, b"9" * 400, b"..", b"\xff", b'"', b"="]
            )
        )
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_answers_or_refuses(name: str) -> None:
    parse, seed = PARSERS[name]

    @settings(max_examples=examples(60))
    @given(variants(seed) | st.binary(max_size=60))
    @example(seed)
    @example(b"")
    @example(b"[" * 20_000)
    @example(b"a." * 20_000 + b"a = 1")
    @example(b"[" + b'"\\"" . ' * 20_000 + b"a]")
    @example(b'a = "' + b'\\"' * 50_000)
    @example(b'{"a":' * 20_000)
    def run(data: bytes) -> None:
        with suppress(StratumError, BadStateError, MalformedError):
            parse(data)

    run()


ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"


@pytest.mark.parametrize(
    "path", [b"/.", b"/..", b"/a/b", b"//", b"/", b"a", rb"/\x2e\x2e", rb"/..\x2f..\x2fetc", rb"/a\x00"]
)
def test_a_dump_whose_lines_are_read_late_leads_nowhere_else(path: bytes) -> None:
    root = LazyDump(ROOT + path + b" 0 10644 1 0 0 0 0.0 - - -\n").root()
    with pytest.raises(DamagedError, match="out of place"):
        assert root.children


@pytest.mark.parametrize("rest", [b"", b"/z", b"/zzzz 0 10644 1"])
def test_a_hard_link_to_nothing_in_a_dump_that_is_cut(rest: bytes) -> None:
    root = LazyDump(ROOT + b"/a 0 @100644 2 0 0 0 0.0 /zz - -\n" + rest).root()
    with pytest.raises(DamagedError, match="/a in the dump is a hard link to nothing"):
        assert root.children


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
RECORD = {
    "id": "a", "store": "/s", "store_key": "1:2", "ref": "a+b", "commit": HASH, "mountpoint": "/m", "mount_id": 1,
    "holder": {"kind": "host", "id": "", "pid": 1, "start_time": 2}, "read_only": False, "since": "2026",
    "device": "0:40", "boot": "b", "pid_namespace": "4:7", "gate": True, "namespace": "host", "attended": None,
}  # fmt: skip


@given(st.sampled_from(sorted(RECORD)), json_values)
def test_a_mount_record_is_one_or_is_refused(key: str, value: object) -> None:
    table = json.loads(json.dumps(RECORD))
    assert record_from_json(table).ref == "a+b"
    table[key] = value
    with suppress(ValueError):
        assert record_from_json(table).to_json() == table


@settings(max_examples=examples(100))
@given(
    st.dictionaries(
        st.sampled_from(["store", "jobs", "registry", "insecure_registries", "token_realms", "x"]), json_values
    )
)
def test_settings_from_a_file(values: dict[str, object]) -> None:
    from stratum import config, toml

    try:
        document = toml.dumps({key: value for key, value in values.items() if value is not None})
    except (TypeError, ValueError):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config.Path, "read_text", lambda path, encoding: document)
        with suppress(StratumError):
            load_config({})
