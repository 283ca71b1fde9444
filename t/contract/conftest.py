# SPDX-License-Identifier: MIT
"""Every case of this folder runs once for each member.

A member joins with a file NAME_driver.py here: a class NameDriver(MemberDriver) whose constructor takes a folder of
its own and leaves the member started.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ensemble.members.contract import MemberDriver, driven

FLUX = [pytest.param(name, marks=pytest.mark.flux) for name in ("flux", "several")]


@pytest.fixture(params=["local", "simulated", *FLUX])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemberDriver]:
    """A started member, stopped at the end."""
    name = request.param
    module = importlib.import_module(f"{name}_driver")
    yield from driven(request, getattr(module, f"{name.capitalize()}Driver")(tmp_path / "run"))
