#!/usr/bin/env flux-python
# SPDX-License-Identifier: MIT
"""The command `flux ensemble`, for every user of an installed Flux. `ensemble_locate.py` says how it is found."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import ensemble_locate

ensemble_locate.extend_path()

from ensemble.cli.main import main  # noqa: E402 - the line above makes it importable

if __name__ == "__main__":
    sys.exit(main())
