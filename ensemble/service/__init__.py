# SPDX-License-Identifier: MIT
"""Many ensembles over one member."""
