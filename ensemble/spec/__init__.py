# SPDX-License-Identifier: MIT
"""What the user wrote: YAML into frozen, checked objects that remember their lines."""
