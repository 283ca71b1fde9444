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

FLUX, SEVERAL = (pytest.param(name, marks=pytest.mark.flux) for name in ("flux", "several"))
#: a second instance behind a process of its own is slow; what is about jobs alone is that of the member in that process
WITH_SEVERAL = ("acts", "member")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" in metafunc.fixturenames:
        case = metafunc.function
        # numbers are those of the service's own instance
        with_several = case.__module__.rpartition(".")[2] in WITH_SEVERAL and "look" not in case.__name__
        several = [SEVERAL] if with_several else []
        metafunc.parametrize("driver", ["local", "simulated", FLUX, *several], indirect=True)


@pytest.fixture
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemberDriver]:
    """A started member, stopped at the end."""
    name = request.param
    module = importlib.import_module(f"{name}_driver")
    yield from driven(request, getattr(module, f"{name.capitalize()}Driver")(tmp_path / "run"))
