# SPDX-License-Identifier: MIT
"""All cases of the contract, for `from ensemble.members.contract.cases import *` in a file of tests."""

from __future__ import annotations

from ensemble.members.contract import acts, jobs, member, params

__all__ = []
for _module in (jobs, acts, params, member):
    for _name, _case in vars(_module).items():
        if _name.startswith("test_"):
            globals()[_name] = _case
            __all__ += [_name]
