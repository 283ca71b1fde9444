#!/usr/bin/env flux-python
# SPDX-License-Identifier: MIT
"""The service process, for the rc scripts: `flux ensemble-service --start`, `--stop`, `--status`.

`flux ensemble service` is the command for people; this one imports no more than it needs.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import ensemble_locate

ensemble_locate.extend_path()

from ensemble.service.main import main  # noqa: E402 - the line above makes it importable

if __name__ == "__main__":
    sys.exit(main())
