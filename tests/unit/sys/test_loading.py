"""Modules that are loaded without what hardly anybody needs of them."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from stratum.sys.loading import load_pathlib
load_pathlib()
assert "urllib.parse" not in sys.modules
from pathlib import Path
assert Path("/a b").as_uri() == "file:///a%20b"
from urllib.parse import urlsplit
assert urlsplit("http://host/path").path == "/path"
load_pathlib()
assert sys.modules["urllib.parse"].urlsplit is urlsplit
"""


def test_what_was_left_out_is_there_when_it_is_asked_for() -> None:
    paths = f"import sys; sys.path = {sys.path!r}\n"
    subprocess.run([sys.executable, "-I", "-S", "-c", paths + PROGRAM], check=True)
