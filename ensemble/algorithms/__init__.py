# SPDX-License-Identifier: MIT
"""Packaged algorithms: `algorithm: {name: asha, ...}` in a file. What a package of its own needs to ship another one."""

from __future__ import annotations

from ensemble.algorithms.contract import Algorithm, Failed, Group, Told, WrongOption
from ensemble.algorithms.options import Option
from ensemble.custom import Action, Rule

__all__ = ["Action", "Algorithm", "Failed", "Group", "Option", "Rule", "Told", "WrongOption"]
