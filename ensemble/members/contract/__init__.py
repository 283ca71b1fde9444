# SPDX-License-Identifier: MIT
"""The contract of members as a suite of tests, for those who write one. Imports pytest; `doc/members.md` shows its use.

Law of this package: what every member promises and nothing that one queue alone can do. A case gets a `driver`, the
fixture of whoever runs the suite; `cases` has them all.
"""

from __future__ import annotations

import pytest

# before the modules are loaded, so that a failed assertion shows its values
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("driver", "acts", "jobs", "member", "params")))

from ensemble.members.contract.driver import MemberDriver, driven  # noqa: E402

__all__ = ["MemberDriver", "driven"]
