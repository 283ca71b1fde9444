# SPDX-License-Identifier: MIT
"""The contract of members, over a line to a queue elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from ensemble.members.contract import MemberDriver, driven
from ensemble.members.contract.cases import *  # noqa: F403
from t.server.remote_driver import RemoteDriver

#: the machine is another one than the user's, and doc/server.md says what that means
ELSEWHERE = {
    "test_environment": "the environment is that of the queue's machine, with what the file adds and takes away",
    "test_directory_umask_and_limits": "the user's directory, umask and limits are those of the user's machine",
    "test_workdir_of_the_group": "relative paths begin in the job's own folder",
    "test_output_error_and_input": "relative paths begin in the job's own folder",
    "test_a_script_and_the_places_of_files": "relative paths begin in the job's own folder",
    "test_it_says_what_it_is": "the server does not know where output lies",
    "test_where_the_output_of_a_point_lies": "the server does not know where output lies",
}


@pytest.fixture
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemberDriver]:
    why = ELSEWHERE.get(request.function.__name__)
    if why is not None:
        pytest.skip(f"a queue elsewhere: {why}")
    yield from driven(request, RemoteDriver(tmp_path / "run"))
