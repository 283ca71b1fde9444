# SPDX-License-Identifier: MIT
"""One who watches and does not read, in a real instance: the broker would queue without end what is sent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t.flux.real_service import serving
from t.stopped_watcher import stopped_and_continued

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]


def test_a_stopped_watcher_is_cut_and_misses_nothing(flux_instance: Any, tmp_path: Path) -> None:
    with serving(flux_instance) as service:
        stopped_and_continued(service.ask, "flux", flux_instance.env, tmp_path)
