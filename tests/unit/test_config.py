from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum import config
from stratum.config import NO_LIMIT, PlaceSettings, carried, load_config
from stratum.errors import UsageError


@pytest.fixture(autouse=True)
def system_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setattr(config, "SYSTEM_CONFIG", path)
    return path


@pytest.mark.root
def test_the_defaults_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = load_config({})
    assert found.store == Path("/var/lib/stratum")
    assert found.runtime_dir == Path("/run/stratum")
    assert found.registry is None
    assert found.insecure_registries == ()
    assert (found.lazy, found.prefetch) == (False, "profile")
    assert found.jobs >= 1


@pytest.mark.root
def test_the_defaults_of_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    home = {"HOME": str(tmp_path)}
    assert load_config(home).store == tmp_path / ".local" / "share" / "stratum"
    assert load_config({"HOME": "not/absolute"}).store == Path("/.local/share/stratum")  # nobody's account
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    xdg = {**home, "XDG_DATA_HOME": "/data", "XDG_RUNTIME_DIR": str(runtime)}
    assert load_config(xdg).store == Path("/data/stratum")
    found = load_config(xdg).runtime_dir  # that directory is somebody else's
    assert found == load_config(home).runtime_dir
    assert found in (Path("/tmp/stratum-1234"), Path("/run/user/1234/stratum"))
    os.chown(runtime, 1234, 0)
    assert load_config(xdg).runtime_dir == runtime / "stratum"


@pytest.mark.root
def test_option_beats_environment_beats_user_file_beats_system_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system_config: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    system_config.write_text('store = "/system"\njobs = 3\nregistry = "system.example"\n')
    user = tmp_path / "xdg" / "stratum" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('store = "/user"\nregistry = "user.example"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": "/nonexistent"}
    found = load_config(environ)
    assert (found.store, found.registry, found.jobs) == (Path("/user"), "user.example", 3)
    environ["STRATUM_STORE"] = "/environment"
    assert load_config(environ).store == Path("/environment")
    assert load_config(environ, store="/option").store == Path("/option")
    assert load_config(environ, store=None).store == Path("/environment")


@pytest.mark.root
def test_root_does_not_read_a_users_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = tmp_path / "stratum" / "config.toml"
    user.parent.mkdir()
    user.write_text('store = "/user"\n')
    assert load_config({"XDG_CONFIG_HOME": str(tmp_path)}).store == Path("/var/lib/stratum")


def test_an_empty_variable_is_none() -> None:
    assert load_config({"STRATUM_REGISTRY": ""}).registry is None


def test_lists() -> None:
    environ = {"STRATUM_INSECURE_REGISTRIES": " one.example:5000, two.example ,,"}
    assert load_config(environ).insecure_registries == ("one.example:5000", "two.example")


def test_lists_in_the_file(system_config: Path) -> None:
    system_config.write_text('insecure_registries = ["one.example", "two.example"]\n')
    assert load_config({}).insecure_registries == ("one.example", "two.example")


def test_token_realms(system_config: Path) -> None:
    expected = {"one.example:5000": "https://two.example", "three.example": "http://four.example:1/token"}
    system_config.write_text(
        '[token_realms]\n"one.example:5000" = "https://two.example"\n"Three.example" = "http://four.example:1/token"\n'
    )
    assert load_config({}).token_realms == expected
    environ = {
        "STRATUM_TOKEN_REALMS": "one.example:5000=https://two.example, three.example=http://four.example:1/token"
    }
    assert load_config(environ).token_realms == expected


@pytest.mark.parametrize(
    "text", ["one.example", "=https://x", "one.example=two.example", "a=https://", "a=ftp://x", "a=https://u:p@x"]
)
def test_bad_token_realms(text: str) -> None:
    with pytest.raises(UsageError, match="token_realms"):
        load_config({"STRATUM_TOKEN_REALMS": text})


def test_places(system_config: Path) -> None:
    system_config.write_text(
        '[places."s3://data"]\nendpoint = "https://s3.example.com"\nregion = "eu"\nunsafe_concurrent = true\n'
        '[places."az://models"]\naccount = "mine"\n'
    )
    expected = {
        "s3://data": PlaceSettings(endpoint="https://s3.example.com", region="eu", unsafe_concurrent=True),
        "az://models": PlaceSettings(account="mine"),
    }
    assert load_config({}).places == expected
    text = '{"gs://x": {"anonymous": true}}'
    assert load_config({"STRATUM_PLACES": text}).places == {"gs://x": PlaceSettings(anonymous=True)}
    assert carried({"STRATUM_PLACES": text}) == {"STRATUM_PLACES": text}
    system_config.write_text("")
    assert load_config({}).places == {}


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "[]",
        '{"s3://x": 1}',
        '{"s3://": {}}',
        '{"s3://x/y": {}}',
        '{"https://x": {}}',
        '{"s3://x": {"secret_access_key": "s"}}',
        '{"s3://x": {"region": 1}}',
        '{"s3://x": {"region": "a\\nb"}}',
        '{"s3://x": {"anonymous": "yes"}}',
        "[" * 100_000,
    ],
)
def test_bad_places(text: str) -> None:
    with pytest.raises(UsageError, match="places"):
        load_config({"STRATUM_PLACES": text})


def test_a_relative_path_is_below_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config({}, store="here").store == tmp_path / "here"


@pytest.mark.parametrize("jobs", ["0", "-1", "1025", "many", "1.5", "²"])
def test_bad_jobs(jobs: str) -> None:
    with pytest.raises(UsageError, match="jobs"):
        load_config({"STRATUM_JOBS": jobs})


def test_what_a_pull_brings_that_is_not_told(system_config: Path) -> None:
    system_config.write_text('pull = "lazy"\nprefetch = "all"\n')
    assert (load_config({}).lazy, load_config({}).prefetch) == (True, "all")
    environ = {"STRATUM_PULL": "whole", "STRATUM_PREFETCH": "none"}
    assert (load_config(environ).lazy, load_config(environ).prefetch) == (False, "none")


@pytest.mark.parametrize("name", ["STRATUM_PULL", "STRATUM_PREFETCH"])
def test_one_of_a_few_words(name: str) -> None:
    with pytest.raises(UsageError, match=r"must be one of .*, not 'some\\nthing'"):
        load_config({name: "some\nthing"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'stor = "/x"\n', "unknown key 'stor'"),
        (b"store = \n", "not valid TOML"),
        (b'store = "\xff"\n', "UTF-8"),
        (b"[store]\na = 1\n", "store"),
        (b"store = 3\n", "store"),
        (b"jobs = true\n", "jobs"),
        (b"token_realms = {a = 1}\n", "token_realms"),
        (b"store = {a = 'b'}\n", "store"),
        (b'store = "a\\u0000b"\n', "NUL"),
    ],
)
def test_bad_files(system_config: Path, content: bytes, message: str) -> None:
    system_config.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_config({})


def test_an_unreadable_file_is_named(system_config: Path) -> None:
    system_config.mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        load_config({})


@pytest.mark.parametrize("what", ["config.toml", "."])
def test_settings_that_others_can_write_are_refused(tmp_path: Path, system_config: Path, what: str) -> None:
    system_config.write_text('store = "/theirs"\n')
    assert load_config({}).store == Path("/theirs")
    place = (tmp_path / what).resolve()
    place.chmod(place.stat().st_mode | 0o022)
    with pytest.raises(UsageError, match="can be written by others") as caught:
        load_config({})
    assert caught.value.message.startswith(f"{place} ")
    assert caught.value.hint.endswith(f"chmod go-w {place}")


def test_settings_in_a_sticky_directory_are_those_of_their_owner(tmp_path: Path, system_config: Path) -> None:
    system_config.write_text('store = "/own"\n')
    tmp_path.chmod(0o1777)
    assert load_config({}).store == Path("/own")


@pytest.mark.root
@pytest.mark.parametrize("what", ["config.toml", "."])
def test_settings_of_somebody_else_are_refused(tmp_path: Path, system_config: Path, what: str) -> None:
    system_config.write_text('store = "/theirs"\n')
    os.chown(tmp_path / what, 1000, 1000)
    with pytest.raises(UsageError, match="owned by user 1000, not by root") as caught:
        load_config({})
    assert f"chown 0 {(tmp_path / what).resolve()}" in caught.value.hint


@pytest.mark.root
def test_settings_that_a_link_leads_elsewhere_for_are_refused(tmp_path: Path, system_config: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 1000, 1000)
    (tmp_path / "theirs" / "real").write_text('store = "/theirs"\n')
    system_config.symlink_to(tmp_path / "theirs" / "real")
    with pytest.raises(UsageError, match=r"theirs is owned by user 1000"):
        load_config({})


@pytest.mark.root
def test_a_users_settings_are_that_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    user = tmp_path / "xdg" / "stratum" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('store = "/user"\n')
    for place in (user, user.parent):
        os.chown(place, 1234, 1234)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert load_config(environ).store == Path("/user")
    os.chown(user, 1000, 1000)
    with pytest.raises(UsageError, match="owned by user 1000"):
        load_config(environ)


def test_every_setting_has_a_variable_and_help() -> None:
    for setting in config.SETTINGS:
        assert setting.env == "STRATUM_" + setting.key.upper()
        assert setting.help.endswith(".")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("50G", 50 << 30),
        ("1.5 TiB", 3 << 39),
        ("2mb", 2 << 20),
        ("10b", 10),
        ("none", NO_LIMIT),
        ("9" * 19 + "T", NO_LIMIT),
    ],
)
def test_a_number_of_bytes(text: str, size: int) -> None:
    assert load_config({"STRATUM_CACHE_MAX": text}).cache_max == size


@pytest.mark.parametrize("text", ["-1", "1e9", "G", "50 X", "1..5", "٣", "50GG", ".5", "9" * 20, "ib", " "])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(UsageError, match="cache_max"):
        load_config({"STRATUM_CACHE_MAX": text})


@pytest.mark.parametrize("text", ["100", "-1", "x", "%", "1.5"])
def test_what_is_no_percentage(text: str) -> None:
    with pytest.raises(UsageError, match="cache_min_free"):
        load_config({"STRATUM_CACHE_MIN_FREE": text})


def test_limits_of_the_cache(system_config: Path) -> None:
    found = load_config({})
    assert (found.cache_max, found.cache_min_free, found.cache_verified_hours) == (None, None, 6)
    assert found.history_max is None
    assert load_config({"STRATUM_HISTORY_MAX": "1.5 GiB"}).history_max == 3 << 29
    system_config.write_text('cache_max = "10G"\ncache_min_free = 20\ncache_verified_hours = 0\n')
    found = load_config({"STRATUM_CACHE_MIN_FREE": "5%"})
    assert (found.cache_max, found.cache_min_free, found.cache_verified_hours) == (10 << 30, 5, 0)
    for text in ("x", "99999", "-1"):
        with pytest.raises(UsageError, match="cache_verified_hours"):
            load_config({"STRATUM_CACHE_VERIFIED_HOURS": text})


def test_what_is_carried_to_who_fetches_later() -> None:
    """How registries and object stores are reached, and the settings; nothing else of an environment, which may hold
    other secrets."""
    wanted = {"HOME": "/root", "https_proxy": "http://p", "HTTPS_PROXY": "http://p", "STRATUM_REGISTRY": "r"}
    wanted |= {"AWS_ACCESS_KEY_ID": "k", "AZURE_STORAGE_KEY": "k"}
    assert carried({**wanted, "AWS_SECRET": "s", "LD_PRELOAD": "/x.so", "STRATUM_SECRET": "s"}) == wanted


def test_the_tables_name_what_is_read() -> None:
    from stratum.config import _CARRIED, FILES, SETTINGS, VARIABLES
    from stratum.podman.places import DEFAULT_DIRECTORY, PODMAN_SETTINGS
    from stratum.volumes.policy import POLICY_FILE

    assert set(VARIABLES) >= _CARRIED
    assert all(setting.env == f"STRATUM_{setting.key.upper()}" for setting in SETTINGS)
    named = {str(path) for path in (POLICY_FILE, PODMAN_SETTINGS, DEFAULT_DIRECTORY / "stratum-*.json")}
    assert named | {"/etc/stratum/config.toml"} <= set(FILES)


def test_every_error_ends_with_a_code_that_is_told() -> None:
    from stratum.errors import EXIT_CODES, StratumError

    def classes(parent: type[StratumError]) -> list[type[StratumError]]:
        return [parent, *(each for child in parent.__subclasses__() for each in classes(child))]

    assert {each.exit_code for each in classes(StratumError)} <= set(EXIT_CODES)
