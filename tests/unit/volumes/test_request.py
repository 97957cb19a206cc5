"""The annotation grammar: what is accepted means one thing, everything else is one clear error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.refs import Ref
from stratum.store.holders import NamedVolume
from stratum.tree.rootchange import RootChange
from stratum.volumes.request import PREFIX, Beginning, Volume, parse_volume, parse_volumes

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("app+dev:/data", Volume("v", Ref("app", worktree="dev"), "/data", False, commit=True)),
        ("app:/data", Volume("v", Ref("app", worktree="main"), "/data", False, commit=True)),
        ("app+dev:/data:ro", Volume("v", Ref("app", worktree="dev"), "/data", True)),
        ("app+dev:/data:rw", Volume("v", Ref("app", worktree="dev"), "/data", False, commit=True)),
        ("app+dev:/data:commit=never", Volume("v", Ref("app", worktree="dev"), "/data", False)),
        ("app+dev:/data:commit=never,ro", Volume("v", Ref("app", worktree="dev"), "/data", True)),
        ("app:v1:/data", Volume("v", Ref("app", tag="v1"), "/data", True)),
        (f"app:{HASH}:/data:ro", Volume("v", Ref("app", tag=HASH), "/data", True)),
        (f"{HASH}:/data", Volume("v", Ref(HASH), "/data", True)),
        ("app:v1:/data:scratch", Volume("v", Ref("app", tag="v1"), "/data", False, scratch=True)),
        ("app:/data:scratch", Volume("v", Ref("app"), "/data", False, scratch=True)),
        ("app:/data:scratch,rw", Volume("v", Ref("app"), "/data", False, scratch=True)),
        ("app:v1:/data:lazy", Volume("v", Ref("app", tag="v1"), "/data", True, lazy=True)),
        (
            "app+dev:/data:prefetch=all",
            Volume("v", Ref("app", worktree="dev"), "/data", False, commit=True, prefetch="all"),
        ),
        (
            "app:v1:/data:scratch;lazy;prefetch=none",
            Volume("v", Ref("app", tag="v1"), "/data", False, scratch=True, lazy=True, prefetch="none"),
        ),
        (
            "app+dev:/data:history",
            Volume("v", Ref("app", worktree="dev"), "/data", False, commit=True, history=True),
        ),
        (
            "app:/data:create;history,commit=never",
            Volume("v", Ref("app", worktree="main"), "/data", False, create_empty=True, history=True),
        ),
        ("app:/a//b/./c/", Volume("v", Ref("app", worktree="main"), "/a/b/c", False, commit=True)),
        ("app:/with, comma/ünï", Volume("v", Ref("app", worktree="main"), "/with, comma/ünï", False, commit=True)),
        ("app:/a;b,c:ro;commit=never", Volume("v", Ref("app", worktree="main"), "/a;b,c", True)),
        (
            "app+dev:/d:create=base:v1;commit=on-stop,tag={name}-{worktree}-{container}-{time}-{commit}",
            Volume(
                "v",
                Ref("app", worktree="dev"),
                "/d",
                False,
                create=Ref("base", tag="v1"),
                commit=True,
                tag="{name}-{worktree}-{container}-{time}-{commit}",
            ),
        ),
    ],
)
def test_accepts(value: str, expected: Volume) -> None:
    assert parse_volume("v", value) == expected


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "no absolute destination"),
        ("app", "no absolute destination"),
        ("app+dev@3:/data:ro", "state in a worktree's history"),
        ("app+dev:/data:create=app@3", "state in a worktree's history"),
        ("app:data", "no absolute destination"),
        ("app:../data", "no absolute destination"),
        (":/data", "not a valid stratum name"),
        ("/data", "no absolute destination"),
        ("a/b:/data", "not a valid stratum name"),
        ("..:/data", "not a valid stratum name"),
        ("app:v1+dev:/data", "both a tag"),
        ("app:/", "container's root"),
        ("app://.//", "container's root"),
        ("app:/a/../b", "'..'"),
        ("app:/..", "'..'"),
        ("app:/proc/1", "belongs to the container runtime"),
        ("app:/sys", "belongs to the container runtime"),
        ("app:/dev", "belongs to the container runtime"),
        ("app:/a\nb", "control character"),
        ("app:/a\x00b", "control character"),
        ("app:/a\x9bb", "control character"),
        ("app:/a\u2028b", "control character"),
        ("app:/a\udcffb", "control character"),
        ("app:/" + "a" * 256, "longer than 255 bytes"),
        ("app:/" + "é" * 128, "longer than 255 bytes"),
        ("app:/" + "a/" * 2100, "longer than 4095 bytes"),
        ("app:/" + "a" * 1_000_000, "at most 8192"),
        ("app:/data:", "without an option"),
        ("app:/data:ro,", "unknown option ''"),
        ("app:/data:RO", "unknown option"),
        ("app:/data:z", "unknown option 'z'"),
        ("app:/data:ro:rw", "unknown option 'ro:rw'"),
        ("app:/data:ro=1", "takes no value"),
        ("app:/data:scratch=", "takes no value"),
        ("app:/data:ro,rw", "exclude each other"),
        ("app:/data:ro,ro", "given twice"),
        ("app:/data:tag=a,tag=b", "given twice"),
        ("app:/data:ro,scratch", "exclude each other"),
        ("app:/data:scratch,create=base", "exclude each other"),
        ("app:/data:scratch,tag=x", "exclude each other"),
        ("app:/data:scratch,commit=never", "exclude each other"),
        ("app:/data:ro,tag=x", "exclude each other"),
        ("app:/data:ro,commit=on-stop", "nothing to commit"),
        ("app:/data:commit=never,tag=x", "does not make"),
        ("app:/data:commit=sometimes", "not known"),
        ("app:/data:commit", "needs a value"),
        ("app:/data:create=", "needs a value"),
        ("app:/data:create=a/b", "not a valid stratum name"),
        ("app:/data:create;create=base", "given twice"),
        ("app:/data:scratch;create", "exclude each other"),
        ("app:v1:/data:create", "needs a worktree"),
        ("app:v1:/data:uid=1", "needs a worktree"),
        ("app:v1:/data:copy-up", "needs a worktree"),
        ("app:v1:/data:scratch;copy-up", "exclude each other"),
        ("app:/data:uid", "needs a value"),
        ("app:/data:uid=", "needs a value"),
        ("app:/data:uid=root", "is not an ID"),
        ("app:/data:uid=-1", "is not an ID"),
        ("app:/data:gid=4294967295", "is not an ID"),
        ("app:/data:gid=" + "1" * 5000, "is not an ID"),
        ("app:/data:uid=\u0661", "is not an ID"),
        ("app:/data:mode=rwx", "is not a mode"),
        ("app:/data:mode=778", "is not a mode"),
        ("app:/data:mode=17777", "is not a mode"),
        ("app:/data:mode=000755", "is not a mode"),
        ("app:/data:copy-up=yes", "takes no value"),
        ("app+dev:/data:uid=1", "is not made here"),
        ("app:v1:/data:lazy=true", "takes no value"),
        ("app+dev:/data:history=true", "takes no value"),
        ("app+dev:/data:history;history", "given twice"),
        ("app+dev:/data:ro;history", "'ro' and 'history' exclude each other"),
        ("app:v1:/data:history", "'history' needs a worktree, app:v1 is a commit"),
        (f"{HASH}:/data:history", "'history' needs a worktree"),
        ("app:v1:/data:scratch;pre-commit=sync", "'scratch' and 'pre-commit' exclude each other"),
        ("app+dev:/data:ro;post-commit=sync", "'ro' and 'post-commit' exclude each other"),
        ("app:v1:/data:post-commit=sync", "needs a worktree"),
        ("app+dev:/data:pre-commit=", "needs a value"),
        ("app+dev:/data:pre-commit", "needs a value"),
        ("app:v1:/data:scratch;history", "'scratch' and 'history' exclude each other"),
        ("app:v1:/data:lazy,lazy", "given twice"),
        ("app:v1:/data:prefetch", "needs a value"),
        ("app:v1:/data:prefetch=", "needs a value"),
        ("app:v1:/data:prefetch=some", "not known"),
        ("app+dev:/data:lazy", "app+dev is none"),
        ("app+dev:/data:lazy,create", "app+dev is none"),
        ("app+dev:/data:lazy,create=base+wt", "base+wt is none"),
        (f"app:{HASH}:/data:lazy", "is none"),
        (f"{HASH}:/data:lazy", "is none"),
        ("app+dev:/data:copy-up", "is not made here"),
        ("app+dev:/data:scratch", "is a worktree"),
        ("app:v1:/data:rw", "needs a worktree"),
        ("app:v1:/data:create=x", "needs a worktree"),
        ("app:v1:/data:commit=on-stop", "needs a worktree"),
        (f"{HASH}:/data:tag=x", "needs a worktree"),
        ("app:/data:tag={nome}", "unknown field {nome}"),
        ("app:/data:tag={}", "unknown field {}"),
        ("app:/data:tag={name", "not a valid tag"),
        ("app:/data:tag=a/b", "not a valid tag"),
        ("app:/data:tag={name.__class__}", "unknown field"),
        ("app:/data:tag=" + "x" * 129, "not a valid tag"),
    ],
)
def test_refuses(value: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_volumes({PREFIX + "v": value})
    assert says in caught.value.message
    assert caught.value.message.startswith(f"annotation '{PREFIX}v': ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("app:v1:/d", "app:v1"),
        ("app:20260101:/d", "app:20260101"),
        ("app:/d", "app:latest"),
        ("app:/d:scratch", "app:latest"),
        ("app+main:/d", "app:latest"),
        ("app+dev:/d:create=base:v1", "base:v1"),
        ("app+dev:/d:create=base", "base:latest"),
        ("app+dev:/d:create", "None"),
        ("app+dev:/d", "None"),
        (f"app+dev:/d:create={HASH}", "None"),
    ],
)
def test_the_tag_that_may_have_to_be_fetched(value: str, tag: str) -> None:
    assert str(parse_volume("v", value).fetched) == tag


def test_what_a_worktree_begins_with() -> None:
    volume = parse_volume("v", "db+dev:/data:create;uid=1000;gid=0;mode=2770;copy-up")
    assert (volume.create, volume.create_empty, volume.copy_up) == (None, True, True)
    assert volume.root == RootChange(1000, 0, 0o2770)
    assert volume.beginning == Beginning(None, True, volume.root)
    based = parse_volume("v", "db+dev:/data:create=base:v1,uid=4294967294")
    assert (str(based.create), based.create_empty, based.root.uid) == ("base:v1", False, 4294967294)
    assert parse_volume("v", "db:/data:uid=5").root.uid == 5  # main may be made from latest
    assert parse_volume("v", "db:/data:scratch;uid=5").root.uid == 5
    assert not parse_volume("v", "db:/data").root


@pytest.mark.parametrize("volume_id", ["", "-a", "a b", "a/b", "é", "x" * 64, "a\n"])
def test_refuses_ids(volume_id: str) -> None:
    with pytest.raises(UsageError, match="not a valid volume id"):
        parse_volumes({PREFIX + volume_id: "app:/data"})


def test_other_annotations_are_not_ours() -> None:
    assert (
        parse_volumes({"stratum.device/other": "x", "org.stratum.dev/x": "y", "io.container.manager": "libpod"}) == []
    )


@pytest.mark.parametrize("key", ["volumes.data", "volume", "volume/data", "Volume.data", "data", "", "vol\nume.a"])
def test_a_key_of_ours_that_names_no_volume_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="is not known") as caught:
        parse_volumes({f"stratum.dev/{key}": "app:/data", PREFIX + "a": "app:/other"})
    assert "stratum.dev/volume.ID=REF:/path" in caught.value.hint
    assert "\n" not in caught.value.message


def test_parents_come_before_what_is_nested_in_them() -> None:
    values = {"a": "s1:/a/b/c", "b": "s2:/a.b", "c": "s3:/a", "d": "s4:/a/b", "e": "s5:/a/b-"}
    volumes = parse_volumes({PREFIX + key: value for key, value in values.items()})
    order = [volume.destination for volume in volumes]
    assert order == ["/a", "/a/b", "/a/b/c", "/a/b-", "/a.b"]


def test_one_destination_one_volume() -> None:
    with pytest.raises(UsageError, match="volumes a and b have the same destination /data"):
        parse_volumes({PREFIX + "a": "x:/data", PREFIX + "b": "y://data/"})


def test_one_worktree_one_volume() -> None:
    with pytest.raises(UsageError, match=r"volumes a and b are both the worktree x\+main"):
        parse_volumes({PREFIX + "a": "x:/one", PREFIX + "b": "x+main:/two:ro"})


def test_a_tag_may_be_mounted_twice() -> None:
    assert len(parse_volumes({PREFIX + "a": "x:v1:/one", PREFIX + "b": "x:v1:/two"})) == 2


@pytest.mark.parametrize(
    "fragment",
    [("tag", "x"), ("create", "base"), ("commit", "never"), ("commit", "on-stop"), ("uid", "5"), ("mode", "700")],
)
def test_options_that_podman_split_off_are_not_lost(fragment: tuple[str, str]) -> None:
    key, value = fragment
    with pytest.raises(UsageError, match=f"the option {key}={value} became an annotation of its own") as caught:
        parse_volumes({PREFIX + "v": "app:/data:rw", key: value})
    assert "';'" in caught.value.hint


def test_annotations_of_others_may_have_the_names_of_options() -> None:
    assert len(parse_volumes({PREFIX + "v": "app:/data", "tag": "x", "create": "y"})) == 1
    assert len(parse_volumes({PREFIX + "v": "app:/data:rw", "commit": "0123abc"})) == 1
    assert len(parse_volumes({PREFIX + "v": "app:/data:rw", "uid": "somebody", "mode": "fast"})) == 1


def test_too_many_volumes() -> None:
    with pytest.raises(UsageError, match="65 volume annotations"):
        parse_volumes({f"{PREFIX}v{i}": f"x:v1:/d{i}" for i in range(65)})


@given(st.text(max_size=200))
def test_any_text_is_a_volume_or_one_error(text: str) -> None:
    volume: Volume | UsageError
    try:
        volume = parse_volume("v", text)
    except UsageError as exc:
        volume = exc
    if isinstance(volume, UsageError):
        assert "\n" not in volume.message
    else:
        assert volume.destination.startswith("/")
        assert ".." not in volume.destination.split("/")
        assert not volume.ref.bare or len(volume.ref.name) == 64


def test_commands_around_a_commit() -> None:
    text = "db+dev:/data:pre-commit=psql -U postgres -c CHECKPOINT && cat a:b=c;commit=never;post-commit=x"
    volume = parse_volume("v", text)
    assert volume.pre_commit == "psql -U postgres -c CHECKPOINT && cat a:b=c"
    assert (volume.promise.pre_commit, volume.promise.post_commit) == (volume.pre_commit, "x")
    assert not volume.promise.commit
    with pytest.raises(UsageError, match="is for volumes in annotations"):
        parse_volume("v", text, holder=NamedVolume)
