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

from driver import MemberDriver


@pytest.fixture(params=["local", "simulated", pytest.param("flux", marks=pytest.mark.flux)])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemberDriver]:
    """A started member, stopped at the end; at the end nothing may have been delivered from inside a call of ours."""
    name = request.param
    if not Path(__file__).with_name(f"{name}_driver.py").is_file():
        pytest.skip(f"the contract's cases have no driver for the member {name}")
    module = importlib.import_module(f"{name}_driver")
    if not getattr(module, f"{name.capitalize()}Driver").runs_commands and request.node.get_closest_marker("commands"):
        pytest.skip(f"the queue {name} runs no commands")
    made: MemberDriver = getattr(module, f"{name.capitalize()}Driver")(tmp_path / "run")
    try:
        yield made
    finally:
        made.close()
    assert not made.reentered, f"delivered from inside perform or open: {made.reentered}"
