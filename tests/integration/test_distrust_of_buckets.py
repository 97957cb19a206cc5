"""What is believed of an object store, and for how long it is waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stratum.config import PlaceSettings
from stratum.errors import (
    ChangedError,
    DamagedError,
    DeniedError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from stratum.oci.access import Access
from stratum.oci.bucket import ABSENT, BucketStore, Match, open_bucket
from stratum.oci.bucketerrors import NoBucketError
from stratum.oci.bucketname import Bucket
from stratum.oci.objectstore import ObjectStore
from stratum.oci.places import open_sink
from stratum.oci.target import parse_target
from tests.contracts.places import SMALL, blob_of, manifest_of, put
from tests.support.oddstore import DATE, Answer, Asked, OddStore, etag, listing, odd_store

SECRET, TOKEN = "very-secret-key/of+mine", "a-token-that-nobody-may-see"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
ACCESS = Access(connect_timeout=5, read_timeout=2, patience=3, min_rate=4096, environment=KEYS)


def opened(store: OddStore, **changes: object) -> BucketStore:
    bucket = parse_target(store.reference).bucket
    assert bucket is not None
    return open_bucket(bucket, Access(**{**{name: getattr(ACCESS, name) for name in NAMES}, **changes}))  # type: ignore[arg-type]


NAMES = ("connect_timeout", "read_timeout", "patience", "min_rate", "environment")


@pytest.fixture
def store() -> Iterator[OddStore]:
    with odd_store(heeds=("absent", "match")) as running:
        yield running


ANSWERS: dict[str, tuple[Answer, type[StratumError], str]] = {
    "expired": (
        Answer.error(400, "ExpiredToken", "The provided token has expired."),
        DeniedError,
        "credentials have expired",
    ),
    "key": (Answer.error(403, "InvalidAccessKeyId", "no such key"), DeniedError, "InvalidAccessKeyId: no such key"),
    "denied": (Answer.error(403, "AccessDenied", "Access Denied"), DeniedError, "403 AccessDenied: Access Denied"),
    "clock": (Answer.error(403, "RequestTimeTooSkewed"), DeniedError, "RequestTimeTooSkewed"),
    "bucket": (Answer.error(404, "NoSuchBucket", "nothing"), NotFoundError, "has no such bucket"),
    "region": (
        Answer.error(400, "AuthorizationHeaderMalformed", "no", "<Region>eu-central-1</Region>"),
        StratumError,
        "not the region of the bucket",
    ),
    "moved": (Answer.error(301, "PermanentRedirect", "use another endpoint"), StratumError, "not the region"),
    "page": (Answer(403, (b"<html>go away</html>",)), DeniedError, "answered 403"),
    "secret": (Answer.error(403, "Odd", f"you sent {SECRET} and {TOKEN}"), DeniedError, r"you sent \*\*\* and \*\*\*"),
    "controls": (Answer.error(400, "Odd", "a\x1b[31m\nb" + "x" * 5000), StratumError, "a"),
}


def test_an_object_that_is_missing_in_whatever_words_is_no_missing_bucket(store: OddStore) -> None:
    store.odd = lambda _asked: Answer.error(404, "NoSuchKey", "there is no such key in this bucket")
    with pytest.raises(NotFoundError) as missing:
        opened(store).get("tags/v1", 10)
    assert not isinstance(missing.value, NoBucketError)
    store.odd = lambda _asked: Answer.error(404, "NoSuchBucket", "nothing")
    with pytest.raises(NoBucketError):
        opened(store).get("tags/v1", 10)


@pytest.mark.parametrize("kind", ANSWERS)
def test_errors_say_what_is_wrong(store: OddStore, kind: str) -> None:
    answer, error, words = ANSWERS[kind]
    store.odd = lambda _asked: answer
    bucket = opened(store)
    asks: list[Callable[[], object]] = [
        lambda: bucket.get("x", 10),
        lambda: list(bucket.list("")),
        lambda: bucket.put("x", b""),
        lambda: bucket.put_stream("x", iter([bytes(9 << 20)]), 9 << 20),
    ]
    for ask in asks:
        with pytest.raises(error, match=words) as caught:
            ask()
        told = caught.value.told
        assert SECRET not in told
        assert TOKEN not in told
        assert told.isprintable()
        assert len(told) < 1000
        assert "127.0.0.1" in told or kind == "region"


def test_the_right_region_is_told(store: OddStore) -> None:
    store.odd = lambda _asked: ANSWERS["region"][0]
    with pytest.raises(StratumError) as caught:
        opened(store).get("x", 10)
    assert "?region=eu-central-1" in caught.value.hint


def test_a_store_that_is_busy(store: OddStore) -> None:
    store.odd = lambda _asked: (
        Answer.error(503, "SlowDown", "Reduce your request rate") if len(store.asked) < 3 else None
    )
    store.objects["x"] = b"data"
    assert opened(store).get("x", 10)[0] == b"data"
    assert len(store.asked) == 3


@pytest.mark.parametrize("what", ["get", "read", "range"])
def test_bytes_that_come_too_slowly(store: OddStore, what: str) -> None:
    """Each comes in time, and all of them too slowly."""
    headers = {"ETag": etag(b""), "Last-Modified": DATE, "Content-Range": "bytes 0-499/1000"}
    pieces = (b"x",) * (500 if what == "range" else 1000)
    store.odd = lambda _asked: Answer(206 if what == "range" else 200, pieces, headers, pause=0.2)
    bucket, begun = opened(store, patience=1.0), time.monotonic()
    with pytest.raises(StratumError, match=r"too slowly|in time|broke"):
        {
            "get": lambda: bucket.get("x", 5000),
            "read": lambda: list(bucket.read("x")),
            "range": lambda: bucket.read_range("x", 0, 500),
        }[what]()
    assert time.monotonic() - begun < 30


def test_an_answer_that_never_comes(store: OddStore) -> None:
    store.odd = lambda _asked: time.sleep(30)
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="did not answer in time"):
        opened(store, patience=1.0, read_timeout=0.5).get("x", 10)
    assert time.monotonic() - begun < 20


def test_ctrl_c_ends_what_waits(store: OddStore) -> None:
    """At once, and not when the server's time is over."""
    store.odd = lambda _asked: time.sleep(30)
    bucket, begun = opened(store, patience=600.0, read_timeout=600.0), time.monotonic()
    asks: list[Callable[[], object]] = [
        lambda: bucket.get("x", 10),
        lambda: list(bucket.list("")),
        lambda: bucket.put_stream("x", iter([bytes(9 << 20)]), 9 << 20),
    ]

    def interrupted(ask: Callable[[], object]) -> None:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            ask()
        finally:
            timer.join()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever other tests left
    try:
        for ask in asks:
            with pytest.raises(KeyboardInterrupt):
                interrupted(ask)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 25


def test_more_than_there_should_be(store: OddStore) -> None:
    store.objects["x"] = bytes(5 << 20)
    bucket = opened(store)
    with pytest.raises(DamagedError, match="more than 1000 bytes"):
        bucket.get("x", 1000)
    assert bucket.read_range("x", 10, 5) == bytes(5)
    store.odd = lambda asked: Answer(
        206,
        (bytes(100),),
        {"ETag": '"e"', "Content-Range": "bytes 10-109/5242880", "Last-Modified": DATE},
    )
    with pytest.raises(DamagedError, match="something else than the part"):
        bucket.read_range("x", 10, 5)


def test_a_read_that_is_cut_goes_on(store: OddStore) -> None:
    data = os.urandom(3 << 20)
    store.objects["x"] = data

    def cut(asked: Asked) -> Answer | None:
        begun = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        rest = data[begun:]
        if len(rest) <= 1 << 20:
            return None
        headers = {"ETag": etag(data), "Last-Modified": DATE}
        if begun:
            headers["Content-Range"] = f"bytes {begun}-{len(data) - 1}/{len(data)}"
        return Answer(206 if begun else 200, (rest[: 1 << 20],), headers, length=len(rest), cut=True)

    store.odd = cut
    assert b"".join(opened(store).read("x")) == data


def test_an_object_that_changes_while_it_is_read(store: OddStore) -> None:
    """It is never put together from two."""
    store.objects["x"] = bytes(3 << 20)

    def change(_asked: Asked) -> Answer | None:
        data = store.objects["x"]
        store.odd = None
        store.objects["x"] = b"y" * (3 << 20)
        return Answer(
            200,
            (data[: 1 << 20],),
            {"ETag": etag(data), "Last-Modified": DATE},
            length=len(data),
            cut=True,
        )

    store.odd = change
    with pytest.raises(StratumError):
        b"".join(opened(store).read("x"))


def test_lists_that_are_odd(store: OddStore) -> None:
    bucket = opened(store)

    def lists(keys: list[str]) -> None:
        store.odd = lambda _asked: Answer(200, (listing(keys).encode(),), {"Content-Type": "application/xml"})

    lists(["a/../b"])
    with pytest.raises(DamagedError, match="whose name cannot be one"):
        list(bucket.list("a/"))
    lists(["a/b", "a/c d", "a/x", "other"])
    assert [entry.key for entry in bucket.list("a/")] == ["a/b", "a/x"]
    lists(["a/x", "a/b"])
    with pytest.raises(DamagedError, match="in order"):
        list(bucket.list("a/"))


def test_no_credentials_go_to_another_host(store: OddStore) -> None:
    with odd_store() as other:
        other.objects["x"] = b"data"
        store.odd = lambda _asked: Answer(307, (), {"Location": f"{other.endpoint}/odd/x"})
        with contextlib.suppress(StratumError):
            opened(store).get("x", 10)
        assert not any("authorization" in asked.headers for asked in other.asked)


# Conditions


@pytest.mark.parametrize("heeds", [(), ("absent",), ("match",)])
def test_a_store_without_conditions_is_not_written_to(heeds: tuple[str, ...]) -> None:
    with odd_store(heeds=heeds) as store, sink_of(store) as sink:
        for write in (lambda: put(sink, SMALL), lambda: sink.put_manifest(manifest_of(blob_of(SMALL)), "v1")):
            with pytest.raises(UnsupportedError, match="does not heed conditions") as caught:
                write()
            assert "--unsafe-concurrent" in caught.value.hint
        assert store.objects == {}
        assert sink.list_tags() == []


def test_a_store_that_knows_no_conditions() -> None:
    def unknown(asked: Asked) -> Answer | None:
        conditional = "if-match" in asked.headers or "if-none-match" in asked.headers
        return Answer.error(501, "NotImplemented", "A header is not implemented") if conditional else None

    match = "does not heed conditions"
    with odd_store(odd=unknown) as store, sink_of(store) as sink, pytest.raises(UnsupportedError, match=match):
        put(sink, SMALL)


def test_a_store_without_conditions_is_written_to_where_that_is_allowed() -> None:
    with odd_store() as store, sink_of(store, unsafe_concurrent=True) as sink:
        for number in range(2):
            data = manifest_of(*put(sink, SMALL), number=str(number))
            sink.put_manifest(data, "v1")
        assert sink.get_manifest("v1")[0] == data
        assert sink.list_tags() == ["v1"]
        version = sink.bucket.put("x", b"1", when=ABSENT)
        sink.bucket.put("x", b"2", when=Match(version))
        for when in (ABSENT, Match(version)):
            with pytest.raises(ChangedError):
                sink.bucket.put("x", b"3", when=when)


def test_the_settings_allow_it_for_one_store() -> None:
    """Unless who asks says that it must not be, as a collection of garbage does."""
    allowed = Access(environment=KEYS, patience=10, places={"s3://odd": PlaceSettings(unsafe_concurrent=True)})
    others = replace(allowed, places={"s3://other": PlaceSettings(unsafe_concurrent=True)})
    with odd_store() as store:
        bucket = Bucket("s3", "odd", "", store.endpoint)
        open_bucket(bucket, allowed).put("x", b"1", when=ABSENT)
        for access in (others, replace(allowed, unsafe_concurrent=False)):
            with pytest.raises(UnsupportedError, match="does not heed conditions"):
                open_bucket(bucket, access).put("y", b"1", when=ABSENT)


def test_conditions_are_tried_once(store: OddStore) -> None:
    for _ in range(3):
        with sink_of(store) as sink:
            put(sink, SMALL)
    probes = [asked.key for asked in store.asked if asked.key.startswith("probe-") and asked.method == "PUT"]
    assert len(set(probes)) == 1
    assert not any(key.startswith("probe-") for key in store.objects)
    assert "conditions.json" in store.objects


def test_plain_http_is_for_where_it_is_allowed() -> None:
    bucket = parse_target("s3://data?endpoint=http://store.example.com:9000").bucket
    assert bucket is not None
    with pytest.raises(UsageError, match="plain HTTP") as caught:
        open_bucket(bucket, ACCESS)
    assert "store.example.com:9000" in caught.value.hint
    open_bucket(bucket, Access(environment=KEYS, insecure_registries=("store.example.com:9000",))).close()
    open_bucket(bucket, Access(environment=KEYS, plain_http=True)).close()


def sink_of(store: OddStore, *, unsafe_concurrent: bool = False) -> ObjectStore:
    access = Access(environment=KEYS, patience=10, unsafe_concurrent=unsafe_concurrent)
    sink = open_sink(parse_target(store.reference), access, create=True)
    assert isinstance(sink, ObjectStore)
    return sink


def test_conditions_of_google_go_by_generation() -> None:
    generations: dict[str, int] = {}

    def google(asked: Asked) -> Answer | None:
        now = generations.get(asked.key, 0)
        headers = {"ETag": '"e"', "Last-Modified": DATE, "x-goog-generation": str(now)}
        if asked.method != "PUT":
            return Answer(200, (b"1",), headers) if now else Answer.error(404, "NoSuchKey")
        if asked.headers.get("x-goog-if-generation-match", str(now)) != str(now):
            return Answer.error(412, "PreconditionFailed")
        generations[asked.key] = now + 1
        return Answer(200, (), {**headers, "x-goog-generation": str(now + 1)})

    with odd_store(odd=google) as store:
        conditions_hold(open_bucket(Bucket("gs", "odd", "", store.endpoint), FOREIGN))
        tokens = {asked.headers.get("authorization", "Bearer anonymous") for asked in store.asked}
        assert tokens == {"Bearer anonymous"}, "and what role this machine has is nobody's business"


def test_conditions_of_azure_go_by_etag() -> None:
    versions: dict[str, int] = {}

    def azure(asked: Asked) -> Answer | None:
        now = versions.get(asked.key, 0)
        headers = {"ETag": f'"0x{now}"', "Last-Modified": DATE}
        if asked.method != "PUT":
            return Answer(200, (b"1",), headers) if now else Answer.error(404, "BlobNotFound")
        if asked.headers.get("if-none-match") == "*" and now:
            return Answer.error(409, "BlobAlreadyExists")
        if asked.headers.get("if-match", f'"0x{now}"') != f'"0x{now}"':
            return Answer.error(412, "ConditionNotMet")
        versions[asked.key] = now + 1
        return Answer(201, (), {**headers, "ETag": f'"0x{now + 1}"'})

    with odd_store(odd=azure) as store:
        access = replace(FOREIGN, places={"az://odd": PlaceSettings(account="account", anonymous=True)})
        conditions_hold(open_bucket(Bucket("az", "odd", "", store.endpoint), access))


FOREIGN = Access(connect_timeout=5, read_timeout=5, patience=10)


def conditions_hold(bucket: BucketStore) -> None:
    """The store is known to heed none, so it is tried first."""
    with bucket:
        first = bucket.put("x", b"1", when=ABSENT)
        assert bucket.get("x", 10) == (b"1", first)
        second = bucket.put("x", b"1", when=Match(first))
        assert second != first
        for when in (ABSENT, Match(first)):
            with pytest.raises(ChangedError):
                bucket.put("x", b"1", when=when)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for text in ("s3://data", "gs://data", "az://data", "memory://data"):
        bucket = parse_target(text).bucket
        assert bucket is not None
        with pytest.raises(UnsupportedError, match="obstore") as caught:
            open_bucket(bucket, ACCESS)
        assert caught.value.hint == "pip install 'stratum-oci[places]'"
    with open_bucket(Bucket("file", str(tmp_path)), ACCESS) as local:
        local.put("x", b"needs no library")
