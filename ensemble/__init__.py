# SPDX-License-Identifier: MIT
"""Run ensembles of jobs: groups plus rules that decide, while the jobs run, what happens next."""

__version__ = "0.1.0"
