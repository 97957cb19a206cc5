"""Histories: what is appended is read, whatever a crash, a full disk or a hand with an editor left behind it."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import BusyError, DamagedError, NotFoundError, UsageError
from stratum.store import Store
from stratum.store import segments as segments_module
from stratum.store.histories import Histories, HistorySettings
from stratum.store.segments import pack, segment_name, unpack
from stratum.tree.model import File
from stratum.tree.oplog import Record, encode, end_line, entry_of
from tests.support.effort import examples
from tests.support.operations import records, work

APP = ("app", "dev")
COMMIT = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    (made.root / "refs/app/worktrees/dev").mkdir(parents=True)
    (made.root / "refs/app/tags").mkdir()
    return made


@pytest.fixture
def histories(store: Store) -> Histories:
    return store.histories


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of some 30 records."""
    monkeypatch.setattr("stratum.store.logwriter.SEAL_SIZE", 10_000)
    monkeypatch.setattr(segments_module, "FRAME_SIZE", 4_000)


def place(histories: Histories) -> Path:
    return histories._layout.history(*APP)


def batches(log: list[Record], *sizes: int) -> Iterator[list[Record]]:
    rng, at = random.Random(4), 0
    while at < len(log):
        size = rng.choice(sizes)
        yield log[at : at + size]
        at += size


def write(histories: Histories, log: list[Record], *sizes: int) -> None:
    with histories.writing():
        writer = histories.writer(*APP)
        for batch in batches(log, *(sizes or (1, 2, 7))):
            writer.append(batch)
        writer.close()


def read(histories: Histories) -> list[Record]:
    return list(histories.records(*APP))


def append_one(histories: Histories) -> Record:
    """What a writer does that comes after a crash: begin, and append."""
    with histories.writing():
        writer = histories.writer(*APP)
        record = Record(writer.next_n, "2026-11-30T06:00:00.000Z", "gap", why="nobody watched")
        writer.append([record])
        writer.close()
    return record


@pytest.mark.usefixtures("small_segments")
def test_what_is_appended_is_read(histories: Histories) -> None:
    log = list(work(500))
    write(histories, log)
    names = sorted(path.name for path in place(histories).iterdir())
    assert len(names) > 10
    assert [name for name in names if not name.endswith(".zst")] == names[-1:]
    assert read(histories) == log
    assert list(histories.newest(*APP)) == log[::-1]
    assert histories.last(*APP) == 500
    assert histories.problems(*APP) == []
    for first, last in ((1, 1), (0, 3), (77, 133), (499, 500), (500, 900), (501, 600)):
        assert list(histories.records(*APP, first=first, last=last)) == log[max(first, 1) - 1 : last]
    for n in (1, 2, 250, 500):
        assert histories.get(*APP, n) == log[n - 1]
        assert list(histories.epoch(*APP, n)) == log[:n]
    assert list(histories.epoch(*APP)) == log


@pytest.mark.usefixtures("small_segments")
def test_a_path_is_found_among_all_others(histories: Histories) -> None:
    log = list(work(300))
    path = log[150].path
    assert path is not None
    log[200] = Record(201, log[200].when, "rename", b"/elsewhere/x y", was=path)
    log[210] = Record(211, log[210].when, "link", b"/elsewhere/l", link=b"/elsewhere/x y")
    write(histories, log)
    assert histories.find(*APP, path) == [r for r in log if path in (r.path, r.was)]
    below = os.path.dirname(path)
    assert histories.find(*APP, below) == []
    assert histories.find(*APP, below, below=True) == [
        r for r in log if (r.path or b"").startswith(below + b"/") or (r.was or b"").startswith(below + b"/")
    ]
    assert histories.find(*APP, b"/elsewhere", below=True) == [log[200], log[210]]
    assert histories.find(*APP, b"/elsewhere/x y") == [log[200]]
    assert len(histories.find(*APP, b"/", below=True)) == 299


def test_a_name_that_says_it_is_a_path_is_not_one(histories: Histories) -> None:
    log = [
        Record(1, "2026-01-01T00:00:00.000Z", "base", commit=COMMIT),
        Record(2, "2026-01-01T00:00:00.000Z", "delete", b'/a","path":"/b', by='x","path":"/b"'),
    ]
    write(histories, log)
    assert histories.find(*APP, b"/b") == []
    assert histories.find(*APP, b'/a","path":"/b') == log[1:]


@given(st.data())
@settings(max_examples=examples(30))
def test_any_records_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = Store.create(tmp_path_factory.mktemp("any") / "store")
    (store.root / "refs/app").mkdir()
    log = [data.draw(records(n)) for n in range(1, data.draw(st.integers(1, 6)) + 1)]
    write(store.histories, log, 1, 2)
    assert read(store.histories) == log
    for record in log:
        if record.path is not None:
            assert record in store.histories.find(*APP, record.path)
            assert record in store.histories.find(*APP, b"/", below=True)


def test_a_log_that_is_cut_anywhere_ends_with_a_whole_batch(histories: Histories) -> None:
    log = list(work(8))
    write(histories, log, 2)
    raw = place(histories) / segment_name(1)
    data = raw.read_bytes()
    ends = [data.index(end_line(n)) + len(end_line(n)) for n in (2, 4, 6, 8)]
    for size in range(len(data)):
        raw.write_bytes(data[:size])
        whole = 2 * sum(size >= end - 1 for end in ends)  # all but the line break is enough
        assert read(histories) == log[:whole], size
        assert histories.problems(*APP) == []
        if size % 7 == 0:
            record = append_one(histories)
            assert record.n == whole + 1
            assert read(histories) == [*log[:whole], record]
            assert histories.problems(*APP) == []
            assert [path.name for path in place(histories).iterdir()] == [raw.name]


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_byte_is_seen_and_costs_no_more_than_its_place(histories: Histories, seed: int) -> None:
    log = list(work(120))
    write(histories, log)
    rng = random.Random(seed)
    for path in sorted(place(histories).iterdir()):
        data = bytearray(path.read_bytes())
        for _ in range(12):
            at = rng.randrange(len(data))
            old = data[at]
            data[at] ^= rng.randrange(1, 256)
            path.write_bytes(data)
            left = list(histories.newest(*APP))
            assert set(left) < set(log) or (left == log[::-1] and histories.problems(*APP))
            assert len(left) >= 120 - 45
            data[at] = old
        path.write_bytes(data)
    assert read(histories) == log


def test_damage_between_whole_lines_stops_who_needs_all(histories: Histories) -> None:
    log = list(work(9))
    write(histories, log, 3)
    raw = place(histories) / segment_name(1)
    raw.write_bytes(raw.read_bytes().replace(b'{"n":5,', b'{"n":4,'))
    with pytest.raises(DamagedError, match=r"history of app\+dev is damaged after CHANGE 4"):
        read(histories)
    with pytest.raises(DamagedError, match="damaged"):
        list(histories.epoch(*APP))
    assert list(histories.epoch(*APP, 4)) == log[:4]
    assert list(histories.records(*APP, first=6)) == log[5:]
    assert list(histories.newest(*APP)) == [r for r in log[::-1] if r.n != 5]
    assert histories.problems(*APP) == ["is damaged after CHANGE 4 (000000000001.jsonl)"]


def test_lines_that_somebody_took_away_are_missed(histories: Histories) -> None:
    log = list(work(9))
    write(histories, log, 3)
    raw = place(histories) / segment_name(1)
    data = raw.read_bytes()
    for gone, told in ((5, "has lost the CHANGES 5 to 5"), (9, "is damaged after CHANGE 8")):
        raw.write_bytes(data.replace(encode(log[gone - 1]), b""))
        assert histories.problems(*APP)[0].startswith(told)
        with pytest.raises(DamagedError):
            read(histories)


def test_an_end_that_was_edited_is_kept_and_its_numbers_are_not_used_again(histories: Histories) -> None:
    log = list(work(6))
    write(histories, log, 3)
    raw = place(histories) / segment_name(1)
    data = raw.read_bytes()
    edited = data.replace(b'"end":6', b'"end":7').replace(b'{"n":5,', b'{"n":5 ,')
    raw.write_bytes(edited)
    assert read(histories) == log[:3]
    assert histories.problems(*APP) == ["is damaged after CHANGE 3 (000000000001.jsonl)"]
    record = append_one(histories)
    assert record.n == 8
    assert read(histories) == [*log[:3], record]
    kept = place(histories) / "damaged-000000000004"
    assert kept.read_bytes() == edited[len(data.partition(end_line(3))[0] + end_line(3)) :]
    assert histories.problems(*APP) == [f"was damaged before CHANGE 4; what was cut off is in {kept.name}"]


@pytest.mark.usefixtures("small_segments")
def test_zeros_behind_the_last_batch_are_torn(histories: Histories) -> None:
    log = list(work(6))
    write(histories, log, 3)
    raw = place(histories) / segment_name(1)
    raw.write_bytes(raw.read_bytes() + bytes(4096))
    assert read(histories) == log
    assert histories.problems(*APP) == []
    assert append_one(histories).n == 7
    assert histories.problems(*APP) == []


@pytest.mark.usefixtures("small_segments")
def test_both_forms_of_a_segment_as_a_power_cut_leaves_them(histories: Histories) -> None:
    log = list(work(100))
    write(histories, log)
    sealed = sorted(place(histories).glob("*.zst"))[-1]
    newest = next(path for path in place(histories).iterdir() if path.suffix == ".jsonl")
    lines = b"".join(unpack(sealed.read_bytes()))  # type: ignore[arg-type]
    raw = sealed.with_suffix("")
    raw.write_bytes(lines)
    for data in (sealed.read_bytes(), b"", sealed.read_bytes()[:100]):
        sealed.write_bytes(data)
        assert read(histories) == log
        assert histories.problems(*APP) == []
    newest_data = newest.read_bytes()
    newest.unlink()  # the cut came before the next batch
    whole = log[: histories.last(*APP)]
    assert read(histories) == whole
    record = append_one(histories)
    assert read(histories) == [*whole, record]
    assert newest_data.startswith(b'{"n":%d,' % record.n)
    assert histories.problems(*APP) == []


@pytest.mark.usefixtures("small_segments")
def test_a_temporary_file_of_a_killed_sealing_goes(histories: Histories) -> None:
    write(histories, list(work(10)))
    (place(histories) / ".tmp-0123456789abcdef").write_bytes(b"half")
    append_one(histories)
    assert [path.name for path in place(histories).iterdir()] == [segment_name(1)]


def test_a_log_that_is_edited_while_it_is_written_is_noticed(histories: Histories) -> None:
    log = list(work(5))
    for change in (
        lambda raw: raw.write_bytes(raw.read_bytes() + b"x"),
        lambda raw: raw.unlink(),
        lambda raw: (raw.rename(raw.with_name("other")), raw.write_bytes(b"")),
    ):
        for path in place(histories).iterdir() if place(histories).exists() else ():
            path.unlink()
        with histories.writing():
            writer = histories.writer(*APP)
            writer.append(log[:2])
            change(place(histories) / segment_name(1))
            with pytest.raises(DamagedError, match="was changed while it was written"):
                writer.append(log[2:])
            writer.close()
            again = histories.writer(*APP)
            again.append([Record(again.next_n, log[0].when, "gap", why="the log was changed")])
            again.close()


def test_a_segment_is_sealed_once_it_is_a_day_old(histories: Histories) -> None:
    def at(day: int, clock: str) -> Record:
        writer = histories.writer(*APP)
        record = Record(writer.next_n, f"2026-11-{day}T{clock}:00.000Z", "gap", why="x")
        writer.append([record])
        writer.close()
        return record

    with histories.writing():
        log = [at(10, "12:00"), at(11, "11:59"), at(11, "12:00"), at(12, "11:00"), at(12, "00:00"), at(20, "00:00")]
    names = [segment_name(1, sealed=True), segment_name(3, sealed=True), segment_name(6)]
    assert sorted(path.name for path in place(histories).iterdir()) == names
    assert read(histories) == log


def test_numbers_have_to_follow(histories: Histories) -> None:
    with histories.writing():
        writer = histories.writer(*APP)
        for wrong in ([2], [1, 3], [1, 1]):
            with pytest.raises(ValueError, match="one by one"):
                writer.append([Record(n, "2026-01-01T00:00:00.000Z", "delete", b"/a") for n in wrong])
        writer.append([])
        assert writer.next_n == 1
        writer.close()
    assert histories.each() == []


@pytest.mark.parametrize("link", ["segment", "sealed", "directory", "history", "fifo"])
def test_nothing_is_read_or_written_through_a_link(histories: Histories, tmp_path: Path, link: str) -> None:
    write(histories, list(work(5)))
    directory = place(histories)
    raw = directory / segment_name(1)
    outside = tmp_path / "outside"
    if link == "segment":
        raw.rename(outside)
        raw.symlink_to(outside)
    elif link == "sealed":
        outside.write_bytes(b"".join(pack(raw.read_bytes())))
        raw.unlink()
        raw.with_name(raw.name + ".zst").symlink_to(outside)
    elif link == "fifo":
        raw.unlink()
        os.mkfifo(raw)
    else:
        moved = directory if link == "directory" else directory.parent
        moved.rename(outside)
        moved.symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else b""
    with pytest.raises(DamagedError):
        read(histories)
    if link != "sealed":
        with pytest.raises(DamagedError), histories.writing():
            histories.writer(*APP)
    assert before == (outside.read_bytes() if outside.is_file() else b"")


def test_what_is_asked_for_and_is_not_there(histories: Histories) -> None:
    for ask in (lambda: histories.get(*APP, 3), lambda: histories.epoch(*APP), lambda: histories.epoch(*APP, 1)):
        with pytest.raises(NotFoundError, match=r"there is no history of app\+dev") as caught:
            ask()
        assert "stratum history on app+dev" in caught.value.hint
    assert histories.find(*APP, b"/a") == read(histories) == list(histories.newest(*APP)) == []
    assert histories.last(*APP) == 0
    assert histories.usage(*APP).records == 0
    write(histories, list(work(5)))
    for n in (0, 6, 10**12):
        with pytest.raises(NotFoundError, match=rf"there is no CHANGE {n} of app\+dev") as caught:
            histories.get(*APP, n)
        assert "its history has 1 to 5" in caught.value.hint
        with pytest.raises(NotFoundError, match=f"no CHANGE {n}"):
            histories.epoch(*APP, n)
    with pytest.raises(UsageError):
        histories.get("app", "../dev", 1)


def test_an_epoch_begins_with_the_last_base(histories: Histories) -> None:
    log = list(work(9))
    log[4] = Record(5, log[4].when, "base", commit="cd" * 32, why="reset")
    write(histories, log)
    assert list(histories.epoch(*APP)) == log[4:]
    assert list(histories.epoch(*APP, 4)) == log[:4]
    assert list(histories.epoch(*APP, 5)) == log[4:5]
    assert histories.roots()[1] == {COMMIT: "history of app+dev", "cd" * 32: "history of app+dev"}


@pytest.mark.usefixtures("small_segments")
def test_what_a_history_needs_and_takes(histories: Histories) -> None:
    log = list(work(200))
    unknown = entry_of(File(0o100644, 0, 0, 0, size=5000))
    log[7] = Record(8, log[7].when, "gap", why="x")
    log[8] = Record(9, log[8].when, "create", b"/u", unknown)
    log[9] = Record(10, log[9].when, "create", b"/v", log[20].entry)
    write(histories, log)
    named = {
        bytes.fromhex(r.entry.split(b" ")[8].decode()): int(r.entry.split(b" ")[0])
        for r in log
        if r.entry and b"/" in r.entry
    }
    digests, commits = histories.roots()
    assert digests == set(named)
    assert commits == {COMMIT: "history of app+dev"}
    usage = histories.usage(*APP)
    assert (usage.records, usage.gaps, usage.contents) == (200, 1, sum(named.values()))
    assert (usage.oldest, usage.newest) == (log[0].when, log[-1].when)
    sizes = [path.stat().st_size for path in place(histories).iterdir()]
    assert usage.raw + usage.sealed == sum(sizes)
    assert min(usage.raw, usage.sealed) > 0


def test_what_a_damaged_line_names_is_needed(store: Store, histories: Histories) -> None:
    log = list(work(3))
    write(histories, log, 3)
    (store.layout.commits / COMMIT).mkdir()
    (store.layout.commits / ("cd" * 32)).mkdir()
    raw = place(histories) / segment_name(1)
    data = raw.read_bytes()
    wanted = histories.roots()
    for at in range(data.index(b'{"end"')):
        raw.write_bytes(data[:at] + b"~" + data[at + 1 :])
        digests, commits = histories.roots()
        assert wanted[0] <= digests
        assert commits == wanted[1]


@pytest.mark.usefixtures("small_segments")
def test_what_cannot_be_read_is_not_taken_for_unneeded(histories: Histories) -> None:
    write(histories, list(work(100)))
    sealed = min(place(histories).glob("*.zst"))
    data = bytearray(sealed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    sealed.write_bytes(data)
    with pytest.raises(DamagedError, match="not known what the history of app"):
        histories.roots()
    assert 0 < histories.usage(*APP).records < 100


def test_numbers_in_a_sealed_segment_that_cannot_be_read_are_not_used_again(histories: Histories) -> None:
    write(histories, list(work(50)))
    with histories.writing():
        writer = histories.writer(*APP)
        writer.seal()
        writer.close()
    sealed = place(histories) / segment_name(1, sealed=True)
    data = bytearray(sealed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    sealed.write_bytes(data)
    record = append_one(histories)
    assert record.n > 50
    assert list(histories.newest(*APP)) == [record]
    assert sealed.read_bytes() == data
    assert append_one(histories).n == record.n + 1


@pytest.mark.parametrize("size", [3 << 20, 1 << 30])
def test_a_frame_that_holds_more_than_any_does_is_damaged(histories: Histories, size: int) -> None:
    from stratum import zstd

    place(histories).mkdir(parents=True)
    compressor = zstd.ZstdCompressor()
    pieces = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    sealed = place(histories) / segment_name(1, sealed=True)
    sealed.write_bytes(b"".join([*pieces, compressor.flush()]) + b"".join(pack(encode(next(work(1))) + end_line(1))))
    tracemalloc.start()
    try:
        assert list(histories.newest(*APP)) == list(work(1))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert histories.problems(*APP) == ["is damaged at its beginning (000000000001.jsonl.zst)"]


def test_settings(store: Store, histories: Histories) -> None:
    assert histories.settings(*APP) is None
    assert histories.settings("nowhere", "main") is None
    wanted = HistorySettings("2026-11-29T23:59:01Z", ("*.o", "/tmp/*"), 5 << 20, True)
    histories.set_settings(*APP, wanted)
    assert histories.settings(*APP) == wanted
    histories.set_settings(*APP, HistorySettings("2026-11-29T23:59:02Z"))
    assert histories.settings(*APP) == HistorySettings("2026-11-29T23:59:02Z", (), 64 << 20, False)
    assert histories.watched() == [APP]
    (store.root / "refs/app/worktrees/dev").rmdir()
    assert histories.watched() == []
    histories.set_settings(*APP, None)
    histories.set_settings(*APP, None)
    histories.set_settings("nowhere", "main", None)
    assert histories.settings(*APP) is None
    assert histories.each() == []


@pytest.mark.parametrize(
    "text",
    ["", "[history]\n", "[history]\nsince = 1\n", "\xff", "[history]\nsince='x'\nexclude=[1]\nmax_file=1\nstrict=true"],
)
def test_settings_that_are_none(histories: Histories, text: str) -> None:
    histories.set_settings(*APP, HistorySettings("x"))
    (place(histories) / "settings.toml").write_text(text, "latin-1")
    with pytest.raises(DamagedError):
        histories.settings(*APP)


def test_one_writes_at_a_time(store: Store, histories: Histories) -> None:
    with histories.writing(), pytest.raises(BusyError, match=f"process {os.getpid()}"), store.histories.writing():
        pass


def test_a_last_line_break_that_was_changed_costs_nothing(histories: Histories) -> None:
    log = list(work(4))
    write(histories, log, 2)
    raw = place(histories) / segment_name(1)
    raw.write_bytes(raw.read_bytes()[:-1] + b"\x8a")
    assert read(histories) == log
    record = append_one(histories)
    assert read(histories) == [*log, record]
    assert histories.problems(*APP) == []
    assert sorted(path.name for path in place(histories).iterdir()) == [raw.name]


def test_a_sealed_segment_has_the_same_records(histories: Histories) -> None:
    log = list(work(50))
    data = b"".join(encode(r) + end_line(r.n) for r in log)
    packed = b"".join(pack(data))
    assert b"".join(unpack(packed)) == b"".join(map(encode, log)) + end_line(50)  # type: ignore[arg-type]
    place(histories).mkdir(parents=True)
    (place(histories) / segment_name(1, sealed=True)).write_bytes(packed)
    assert read(histories) == log
    assert histories.problems(*APP) == []
    assert append_one(histories).n == 51


def test_a_writer_that_is_closed_leaves_no_descriptor(histories: Histories) -> None:
    before = len(os.listdir("/proc/self/fd"))
    write(histories, list(work(5)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_bears_on_a_path_is_found(histories: Histories, small_segments: None) -> None:
    log = list(work(200))
    when, entry = log[0].when, log[1].entry
    log[40] = Record(41, when, "write", b"/a/b/c", entry)
    log[50] = Record(51, when, "write", b"/a/b/cd", entry)
    log[60] = Record(61, when, "write", b"/a/b/c/d", entry)
    log[70] = Record(71, when, "rename", b"/x", was=b"/a/b")
    log[77] = Record(78, when, "gap", why='nobody watched: "op":"base"')
    log[80] = Record(81, when, "rename", b"/a", was=b"/y")
    log[90] = Record(91, when, "rename", b"/a/z", was=b"/a/y")
    log[100] = Record(101, when, "rename", b"/a/z", was=b"/a/b/c")
    log[130] = Record(131, when, "base", commit="cd" * 32)
    write(histories, log, 10)
    numbers = [record.n for record in histories.about(*APP, b"/a/b/c")]
    assert numbers == [1, 41, 61, 71, 78, 81, 101, 131]
    assert len(histories.about(*APP, b"/")) == 200


def test_a_sealed_record_takes_at_most_a_hundred_bytes() -> None:
    """With names, times and contents as programs leave them, each record in a batch of its own."""
    log = list(work(20_000))
    data = b"".join(encode(record) + end_line(record.n) for record in log)
    assert sum(map(len, pack(data))) <= 100 * len(log)


def test_whether_a_log_is_whole(histories: Histories, small_segments: None) -> None:
    write(histories, list(work(200)), 10)
    assert histories.is_whole(*APP, 1, 200)
    assert histories.is_whole(*APP, 150, 160)
    assert not histories.is_whole(*APP, 1, 201)
    newest = max(path for path in place(histories).iterdir() if path.name.endswith(".jsonl"))
    whole = newest.read_bytes()
    first = int(newest.name[:12])
    newest.write_bytes(whole.replace(b'"t":"', b'"t":"1', 1))
    assert histories.is_whole(*APP, 1, first - 1)
    assert not histories.is_whole(*APP, 1, first)
    lines = whole.split(b"\n")
    newest.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    assert not histories.is_whole(*APP, 1, 200)
    newest.write_bytes(whole)
    assert histories.is_whole(*APP, 1, 200)
    sealed = min(path for path in place(histories).iterdir() if path.name.endswith(".zst"))
    data = bytearray(sealed.read_bytes())
    data[len(data) // 2] ^= 1
    sealed.write_bytes(data)
    assert not histories.is_whole(*APP, 1, 200)
    assert histories.is_whole(*APP, first, 200)


def test_any_changed_bit_is_named_or_changes_nothing(histories: Histories) -> None:
    log = list(work(4))
    with histories.writing():
        writer = histories.writer(*APP)
        writer.append(log[:2])
        writer.seal()
        writer.append(log[2:3])
        writer.append(log[3:])
        writer.close()
    for path in sorted(place(histories).iterdir()):
        data = path.read_bytes()
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            assert histories.problems(*APP) or read(histories) == log, (path.name, at)
        path.write_bytes(data)
