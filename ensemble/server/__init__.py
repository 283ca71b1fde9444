# SPDX-License-Identifier: MIT
"""The service over gRPC: `ensemble-server`, and the remote members that register with it."""

import os

# gRPC would prepare its threads for a life in forked children. Ours are exec'd at once; where Python forks for that (3.9
# does), what gRPC prepares in the middle of its work can abort the process. Read as gRPC is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
