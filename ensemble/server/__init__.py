# SPDX-License-Identifier: MIT
"""`ensemble-server`: the service over gRPC, for members and operators outside of the instance. The only one that knows gRPC."""
