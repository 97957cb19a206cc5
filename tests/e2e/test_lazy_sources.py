"""Fetching from a real registry that is away, slow, denies, forgets, lies and comes back: what is read is right or EIO,
and the state of the source says what is wrong."""

from __future__ import annotations

import base64
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratum.composefs.verity import verity_digest
from stratum.hydrate import remote
from stratum.hydrate.fetch import Fetcher
from stratum.hydrate.landing import Landing
from stratum.hydrate.lanes import LANES
from stratum.oci.access import Access, Credentials, anonymous
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from tests.e2e.registry_server import RegistryServer, registry_server
from tests.support import stores
from tests.support.fetching import READER, Answers, Partial, get, small_files, until
from tests.support.pulling import pull
from tests.support.slowregistry import SlowRegistry, slow_registry

pytestmark = pytest.mark.registry

FILES = small_files(400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry") / "server") as running:
        yield running


@pytest.fixture(scope="module")
def pushed(server: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The commit of ``FILES``, which ``app:v1`` names."""
    origin = Store.create(tmp_path_factory.mktemp("origin") / "store")
    commit = stores.commit(origin, FILES)
    push(origin, commit, parse_target(f"{server.host}/app:v1"), Access())
    return commit


@pytest.fixture
def far(server: RegistryServer, tmp_path: Path) -> Iterator[SlowRegistry]:
    with slow_registry(server.directory / "data", tmp_path / "log") as running:
        yield running


@pytest.fixture
def lazy(far: SlowRegistry, pushed: str, tmp_path: Path) -> Partial:
    store = Store.create(tmp_path / "store")
    pull(store, parse_target(f"{far.host}/app:v1"), Access(), lazy=True)
    far.forget()
    return Partial(store, pushed, tmp_path, {verity_digest(data): data for data in FILES.values()})


def state(fetcher: Fetcher) -> Any:
    (source,) = fetcher.status()["sources"]
    return source


def test_all_of_it_comes_over_a_slow_line(lazy: Partial, far: SlowRegistry) -> None:
    far.tell(delay=0.03)
    with lazy.fetcher() as fetcher:
        for digest in lazy.in_order():
            assert get(fetcher, digest) == [0]
            lazy.check(digest)
        assert state(fetcher)["state"] == "ok"
        assert len(far.ranges()) == state(fetcher)["requests"] < 40


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("404", "gone"),
        ("403", "denied"),
        ("lie", "damaged"),
        ("swap", "damaged"),
        ("zeros", "damaged"),
        ("short", "damaged"),
        ("stall", "away"),
    ],
)
def test_what_is_wrong_is_eio_and_said_and_over_when_it_is_over(
    lazy: Partial, far: SlowRegistry, monkeypatch: pytest.MonkeyPatch, fault: str, expected: str
) -> None:
    monkeypatch.setattr(remote, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(remote, "AVOID_SECONDS", 0.3)
    digest = lazy.in_order()[5]
    with lazy.fetcher() as fetcher:
        with far.faulty(fault, where="blobs"):
            assert get(fetcher, digest) == [errno.EIO]
            assert state(fetcher)["state"] == expected
            assert fetcher.condition(digest) == "unreal"
            (failed,) = fetcher.status()["failed"]
            assert failed["error"]
        deadline = time.monotonic() + 30
        while get(fetcher, digest) != [0]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        lazy.check(digest)
        others = iter(lazy.in_order() * 100)
        # What was asked for ahead before it was over may fail after it, and the next that is asked for tells the truth.
        until(lambda: get(fetcher, next(others)) == [0] and state(fetcher)["state"] == "ok")
        assert state(fetcher)["error"] is None


def test_connections_that_are_cut_are_made_again(lazy: Partial, far: SlowRegistry) -> None:
    with lazy.fetcher() as fetcher, far.faulty("cut", where="blobs", times=2):
        assert get(fetcher, lazy.in_order()[0]) == [0]


def test_a_registry_that_gives_no_ranges_gives_whole_packs(lazy: Partial, far: SlowRegistry) -> None:
    with lazy.fetcher() as fetcher, far.faulty("whole", where="blobs"):
        for digest in lazy.in_order():
            assert get(fetcher, digest) == [0]
            lazy.check(digest)
        assert len(far.asked("blobs")) <= 4


def test_a_registry_that_is_down_fails_fast_and_is_found_again(lazy: Partial, far: SlowRegistry) -> None:
    first, *others = lazy.in_order()
    with lazy.fetcher() as fetcher:
        assert get(fetcher, first) == [0]
        far.die()
        far_away = others[-1]
        for _ in range(4):
            assert get(fetcher, far_away) == [errno.EIO]
        began = time.monotonic()
        assert get(fetcher, far_away) == [errno.EIO]
        assert time.monotonic() - began < 3, "nobody waits for what is away"
        assert state(fetcher)["state"] == "away"
        assert get(fetcher, first) == [0], "what is here is read on"
        far.live()
        until(lambda: get(fetcher, far_away) == [0])
        lazy.check(far_away)


def login(password: list[str], asked: list[str]) -> Credentials:
    def find(host: str, _repository: str) -> str:
        asked.append(host)
        return base64.b64encode(password[0].encode()).decode()

    return find


def fetcher_with(lazy: Partial, landing: Landing, credentials: Credentials) -> Fetcher:
    return Fetcher(landing, lazy.commit, lambda _source: Access(credentials=credentials))


def comes_no_more(fetcher: Fetcher) -> bool:
    before = fetcher.status()["sources"][0]["requests"]
    time.sleep(0.5)
    return bool(fetcher.status()["sources"][0]["requests"] == before)


def test_passwords_that_changed_are_read_again_once(lazy: Partial, far: SlowRegistry) -> None:
    password, asked = ["user:first"], list[str]()
    far.tell(login="user:first")
    landing = Landing(lazy.store)
    fetcher = fetcher_with(lazy, landing, login(password, asked))
    order = lazy.in_order()
    assert get(fetcher, order[0]) == [0]
    far.tell(login="user:second")
    password[0] = "user:second"
    assert get(fetcher, order[-1]) == [0], "they were asked for anew"
    until(lambda: comes_no_more(fetcher))  # what was fetched ahead
    far.tell(login="user:third")
    missing = next(digest for digest in order if fetcher.condition(digest) == "unreal")
    before = len(asked)
    assert get(fetcher, missing) == [errno.EIO]
    until(lambda: comes_no_more(fetcher))
    assert len(asked) - before <= 2 * LANES, "all that was on its way, twice"
    before = len(asked)
    assert get(fetcher, missing) == [errno.EIO]
    assert len(asked) == before, "the breaker is open"
    assert state(fetcher)["state"] == "denied"
    password[0] = "user:third"
    until(lambda: get(fetcher, missing) == [0])
    fetcher.close()
    landing.close()


def test_a_fetcher_begins_without_network_and_without_passwords(lazy: Partial, far: SlowRegistry) -> None:
    far.die()
    landing = Landing(lazy.store)
    fetcher = fetcher_with(lazy, landing, anonymous)
    assert fetcher.size(lazy.in_order()[0])
    fetcher.prefetch("all")
    until(lambda: not fetcher.status()["prefetch"]["running"])
    fetcher.close()
    landing.close()
    assert lazy.store.sources.is_partial(lazy.commit)


def test_a_thousand_readers_of_one_object_ask_once(lazy: Partial, far: SlowRegistry) -> None:
    far.tell(delay=0.1)
    answers = Answers()
    with lazy.fetcher() as fetcher:
        digest = lazy.in_order()[0]
        threads = [threading.Thread(target=fetcher.want, args=(digest, READER, answers)) for _ in range(1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers.wait(1000)) == {0}
        lazy.check(digest)
        frames = {one.range for one in far.ranges()}
        assert len(frames) == len(far.ranges()), "no byte is asked for twice"
