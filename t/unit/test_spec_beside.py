# SPDX-License-Identifier: MIT
"""Files that an ensemble's file names: read once where the user submits, never by the service."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ensemble.spec.beside import MOST, Beside, Folder


def test_a_file_is_read_once_and_kept(tmp_path: Path) -> None:
    (tmp_path / "steer.py").write_text("x = 1\n")
    folder = Folder(str(tmp_path))
    assert folder.text("steer.py") == "x = 1\n"
    (tmp_path / "steer.py").write_text("x = 2\n")
    assert folder.text("steer.py") == "x = 1\n"
    assert Beside(folder.read).text("steer.py") == "x = 1\n"


@pytest.mark.parametrize("kind", ["missing", "large", "binary", "folder"])
def test_what_cannot_be_read_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    if kind == "large":
        path.write_bytes(b"x" * (MOST + 1))
    elif kind == "binary":
        path.write_bytes(b"ab\xff")
    elif kind == "folder":
        path.mkdir()
    told = {"missing": "No such file", "large": "larger than 1 MiB", "binary": "byte 3", "folder": "directory"}[kind]
    with pytest.raises(ValueError, match=told):
        Folder(str(tmp_path)).text("f")


def test_a_pipe_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert Folder(str(tmp_path)).text("f") == ""


def test_many_files_are_too_many(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * (MOST - 1))
    folder.text("a")
    folder.text("b")
    with pytest.raises(ValueError, match="2 MiB in all"):
        folder.text("c")


def test_the_service_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(ValueError, match="not sent along"):
        Beside({}).text(str(tmp_path / "f"))
