# SPDX-License-Identifier: MIT
"""`ensemble-server`: the service over gRPC, for members and operators outside of the instance. The only one that knows gRPC."""

import os

# gRPC would prepare its threads for a life in forked children. Ours are exec'd at once; where Python forks for that (3.9
# does), what gRPC prepares in the middle of its work can abort the process. Read as gRPC is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
