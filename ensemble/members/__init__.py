# SPDX-License-Identifier: MIT
"""Queues that run jobs and deliver events; `base` is the contract."""
