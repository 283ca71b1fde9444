# SPDX-License-Identifier: MIT
"""The contract of members, each case once for each member of ours."""

from ensemble.members.contract.cases import *  # noqa: F403
