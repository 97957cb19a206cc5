"""The state and bundle that a runtime hands to a hook: real ones are read, anything else is one clear error."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.hook.ocistate import (
    MAX_STATE,
    BadStateError,
    Bundle,
    called,
    parse_bundle,
    parse_state,
    read_bundle,
    read_state,
)

STATE: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "id": "d7d4fd27fedff18fd56e8104a1ae9b54f8af627c9387e63777dcefebed8e3081",
    "status": "creating",
    "pid": 20176,
    "bundle": "/var/lib/containers/storage/overlay-containers/d7d4/userdata",
    "annotations": {"io.container.manager": "libpod", "stratum.dev/volume.x": "foo:/data"},
}


def test_a_runtime_s_state() -> None:
    state = parse_state(json.dumps(STATE).encode())
    assert (state.id, state.status, state.pid) == (STATE["id"], "creating", 20176)
    assert state.bundle == Path(STATE["bundle"])
    assert state.annotations == STATE["annotations"]


def test_a_stopped_container_has_no_pid_and_may_have_no_annotations() -> None:
    state = {key: value for key, value in STATE.items() if key not in ("pid", "annotations")} | {"status": "stopped"}
    assert parse_state(json.dumps(state).encode()).pid == 0
    assert parse_state(json.dumps(state | {"annotations": None}).encode()).annotations == {}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"id": NaN}', "not valid JSON"),
    ],
)
def test_no_state(data: bytes, says: str) -> None:
    with pytest.raises(BadStateError, match=says):
        parse_state(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": None}, "'id' is missing"),
        ({"id": ""}, "not a container ID"),
        ({"id": "../../etc"}, "not a container ID"),
        ({"id": "a/b"}, "not a container ID"),
        ({"id": "a\nb"}, "not a container ID"),
        ({"id": "x" * 256}, "not a container ID"),
        ({"status": 1}, "'status' is missing"),
        ({"pid": "1"}, "'pid' is not"),
        ({"pid": -1}, "'pid' is not"),
        ({"pid": True}, "'pid' is not"),
        ({"pid": 1.5}, "'pid' is not"),
        ({"pid": 1 << 31}, "'pid' is not"),
        ({"bundle": ""}, "'bundle' is not an absolute path"),
        ({"bundle": "userdata"}, "'bundle' is not an absolute path"),
        ({"bundle": "/a\0b"}, "'bundle' is not an absolute path"),
        ({"annotations": []}, None),
        ({"annotations": ["x"]}, "'annotations' is not a JSON object"),
        ({"annotations": {"x": 1}}, "annotation 'x' is not a string"),
    ],
)
def test_wrong_state(change: dict[str, Any], says: str | None) -> None:
    data = json.dumps(STATE | change).encode()
    if says is None:
        assert parse_state(data).annotations == {}
        return
    with pytest.raises(BadStateError, match=says):
        parse_state(data)


def test_state_is_read_to_its_end_and_no_further_than_the_cap() -> None:
    assert _through_pipe(json.dumps(STATE).encode()).id == STATE["id"]
    with pytest.raises(BadStateError, match="larger than"):
        _through_pipe(b" " * (MAX_STATE + 1))


def _through_pipe(data: bytes) -> Any:
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                view = view[stream.write(view) or 0 :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return read_state(reader)
    finally:
        thread.join()
        os.close(reader)


def test_a_bundle(tmp_path: Path) -> None:
    config = {
        "root": {"path": "/merged", "readonly": True},
        "linux": {
            "mountLabel": "system_u:object_r:container_file_t:s0",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_bundle(tmp_path) == Bundle(
        Path("/merged"),
        "system_u:object_r:container_file_t:s0",
    )


def test_a_relative_rootfs_is_in_the_bundle() -> None:
    assert parse_bundle(b'{"root": {"path": "rootfs"}}', Path("/b")) == Bundle(Path("/b/rootfs"), None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"{}", "'root' is not a JSON object"),
        (b'{"root": {}}', "'path' is missing"),
        (b'{"root": {"path": ""}}', "not a path"),
        (b'{"root": {"path": "r"}, "linux": 1}', "'linux' is not a JSON object"),
        (b'{"root": {"path": "r"}, "linux": {"mountLabel": 1}}', "'linux.mountLabel' is not a string"),
    ],
)
def test_wrong_bundle(data: bytes, says: str) -> None:
    with pytest.raises(BadStateError, match=says):
        parse_bundle(data, Path("/b"))


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadStateError, match="No such file"):
        read_bundle(tmp_path)


def test_a_fifo_for_a_config_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadStateError, match="not a regular file"):
        read_bundle(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_one_error(data: bytes) -> None:
    with pytest.raises(BadStateError) as caught:
        parse_state(data)
    assert "\n" not in caught.value.message


def test_what_people_call_a_container(tmp_path: Path) -> None:
    config = {
        "root": {"path": "/r"},
        "mounts": [{"source": "tmpfs"}, {"source": "/run/s/overlay-containers/c1/userdata/hosts"}],
    }
    lists = parse_bundle(json.dumps(config).encode(), Path("/g/overlay-containers/c1/userdata")).lists
    names = ["/g/overlay-containers/containers.json", "/run/s/overlay-containers/volatile-containers.json"]
    assert list(map(str, lists)) == names
    for bundle in ("/userdata", "/c1/userdata", "/b"):
        assert parse_bundle(json.dumps(config).encode(), Path(bundle)).lists == ()
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("no JSON")
    metadata = json.dumps({"name": "web", "image-name": "docker.io/library/redis:7\x1b[1m" + "x" * 300})
    second.write_text(json.dumps([{"id": "c0", "metadata": "{}"}, 7, {"id": "c1", "metadata": metadata}]))
    found = called([first, tmp_path / "none", second], "c1")
    assert found is not None
    assert found.startswith("web, docker.io/library/redis:7\\x1b[1mxxx")
    assert len(found) == 200
    assert called([second], "c0") is None
    assert called([second], "c2") is None
