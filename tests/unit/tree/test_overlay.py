"""overlayfs's attribute names and their escaping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.ingest.upper_lower import lower_entry
from stratum.tree.model import Directory, File, Xattrs
from stratum.tree.overlay import BY_STRATUM, Dialect, directory_xattrs, stores_whiteout, whiteout_xattrs

NAMES = st.text("ab.", max_size=3).map(str.encode)
PREFIXES = st.lists(st.sampled_from([b"overlay.", b"x."]), max_size=3).map(b"".join)
XATTRS = st.dictionaries(
    st.builds(
        lambda space, prefix, name: space + prefix + name, st.sampled_from([b"trusted.", b"user."]), PREFIXES, NAMES
    ),
    st.binary(max_size=3),
    max_size=5,
).map(lambda found: tuple(sorted(found.items())))


@given(XATTRS, st.sampled_from(Dialect))
def test_what_a_user_stores_comes_back_and_is_never_overlayfs_own(xattrs: Xattrs, dialect: Dialect) -> None:
    private, visible = dialect.split(dialect.escape(xattrs))
    assert private == {}
    assert visible == xattrs


def test_private_and_escaped_names() -> None:
    stored = (
        (b"trusted.overlay.opaque", b"y"),
        (b"trusted.overlay.overlay.opaque", b"users"),
        (b"trusted.overlay.overlayer", b"private too"),
        (b"trusted.overlays", b"plain"),
        (b"user.overlay.opaque", b"plain"),
    )
    assert Dialect.TRUSTED.split(stored) == (
        {b"opaque": b"y", b"overlayer": b"private too"},
        ((b"trusted.overlay.opaque", b"users"), (b"trusted.overlays", b"plain"), (b"user.overlay.opaque", b"plain")),
    )


def test_what_users_see_of_a_stored_whiteout_is_told_from_what_one_of_them_has_set() -> None:
    by_root = ((b"trusted.overlay.whiteout", b""), (b"user.overlay.whiteout", b""))
    by_users = ((b"user.overlay.whiteout", BY_STRATUM),)
    assert stores_whiteout(0, by_root)
    assert stores_whiteout(0, by_users, Dialect.USER)
    assert not stores_whiteout(0, by_users), "anybody may have set it where root mounts"
    assert whiteout_xattrs((*by_users, (b"user.x", b""))) == ((b"user.x", b""),)
    assert not stores_whiteout(1, by_users, Dialect.USER)
    assert not stores_whiteout(0, ((b"user.overlay.whiteout", b""),), Dialect.USER)
    around = ((b"user.overlay.opaque", b"x"), (b"user.overlay.whiteouts", BY_STRATUM))
    assert directory_xattrs((*around, (b"user.x", b"")), ()) == ((b"user.x", b""),)
    assert directory_xattrs(((b"user.overlay.whiteouts", b""),), ()) == ((b"user.overlay.whiteouts", b""),)


FILE = File(0o100644, 0, 0, 0)
PARENT = Directory(0o40755, 0, 0, 0, children={b"b": FILE})
BASE = Directory(0o40755, 0, 0, 0, children={b"d": PARENT, b"f": FILE})


@pytest.mark.parametrize("redirect", [None, b"b", b"/d/b", b"/f"])
def test_redirects_that_lead_to_a_file(redirect: bytes | None) -> None:
    assert lower_entry(BASE, PARENT, b"b", redirect, b"/x/b") is FILE


@pytest.mark.parametrize(
    "redirect", [b"", b"/", b"/d//b", b"/d/b/", b"/d/../f", b".", b"..", b"d/b", b"/b", b"f", b"/f/b"]
)
def test_redirects_that_lead_nowhere(redirect: bytes) -> None:
    with pytest.raises(DamagedError, match=r"'/x/b'"):
        lower_entry(BASE, PARENT, b"b", redirect, b"/x/b")


def test_no_redirect_and_no_lower_entry() -> None:
    assert lower_entry(BASE, PARENT, b"other", None, b"/x/other") is None
    assert lower_entry(BASE, None, b"b", None, b"/x/b") is None
