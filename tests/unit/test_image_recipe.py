"""What ``make image`` reads in the Containerfile, and that it does nothing else than that says."""

from __future__ import annotations

import re

import pytest

from tests.support.capabilities import CHECKOUT
from tools.image.recipe import read_recipe
from tools.setup.pip import SetupError

TEXT = (CHECKOUT / "Containerfile").read_text("utf-8")


def test_the_containerfile_is_understood() -> None:
    driver, command = read_recipe(TEXT, "csi"), read_recipe(TEXT, "cli")
    assert driver.entrypoint == ("/opt/stratum/bin/stratum-csi",)
    assert command.entrypoint == ("/opt/stratum/bin/stratum",)
    assert "csi" in str(driver.extras).split(",")
    assert command.extras is None
    for recipe in (driver, command):
        assert f"debian:{recipe.suite}-slim" in TEXT
        assert set(recipe.packages) == {"ca-certificates", "python3"}
        assert recipe.prefix == "/opt/stratum"
        assert "PYTHONDONTWRITEBYTECODE=1" in recipe.environment


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ENTRYPOINT", "USER nobody\nENTRYPOINT"),
        ("COPY --from=build-csi /out/opt/stratum /opt/stratum", "COPY --from=build-csi /out/opt/stratum /opt/other"),
        ("COPY --from=build-csi", "COPY --chown=1 --from=build-csi"),
        ("COPY --from=build-csi /out/opt/stratum /opt/stratum\n", ""),
        ("ca-certificates python3 \\", "ca-certificates python3 && touch /x \\"),
        ("&& rm -rf /var/lib/apt/lists/*", "&& update-ca-certificates"),
        ("/library/debian:trixie-slim", "/library/alpine:3"),
        ("--prefix /opt/stratum --destdir /out", "--prefix /opt/stratum --destdir /out --hook yes"),
        ("AS csi", "AS other"),
    ],
)
def test_a_step_that_is_not_understood_is_refused(before: str, after: str) -> None:
    changed = TEXT.replace(before, after)
    assert changed != TEXT
    with pytest.raises(SetupError, match=re.escape("Containerfile: ")):
        read_recipe(changed, "csi")
