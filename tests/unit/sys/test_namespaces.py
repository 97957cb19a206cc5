"""Work in a thread that has a root, a working directory and credentials of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stratum.sys.namespaces import in_own_thread


def test_the_working_directory_of_the_caller_stays(tmp_path: Path) -> None:
    before = os.getcwd()

    def work() -> str:
        os.chdir(tmp_path)
        return os.getcwd()

    assert in_own_thread(work) == str(tmp_path)
    assert os.getcwd() == before


def test_an_opened_file_is_the_callers_too(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    fd = in_own_thread(lambda: os.open(tmp_path / "f", os.O_RDONLY))
    with open(fd) as file:
        assert file.read() == "x"


def test_an_error_is_raised_in_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        in_own_thread(lambda: os.chdir(tmp_path / "missing"))
    assert caught.value.filename == str(tmp_path / "missing") or caught.value.filename == tmp_path / "missing"
