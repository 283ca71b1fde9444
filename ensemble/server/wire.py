# SPDX-License-Identifier: MIT
"""What goes over gRPC: the messages and methods of `proto/*.proto`, built from their compiled descriptions.

`make proto` compiles them into `proto/all.binpb`. There is no generated Python: that would fit the releases of
protobuf that are close to the compiler's alone, and this one library has to serve Python 3.9 with protobuf 4 and
the newest with the newest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

OPERATOR = "convergedcomputing.org.grpc.v1.EnsembleOperator"
ENSEMBLES = "ensemble.v1.Ensembles"
MEMBERS = "ensemble.v1.Members"
#: those that every server has
SERVICES = (OPERATOR, ENSEMBLES)
DESCRIPTIONS = Path(__file__).with_name("proto") / "all.binpb"


def _load() -> Any:
    """A pool of our own: another package may know a file of the same name."""
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTIONS.read_bytes())
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


pool = _load()


def message(name: str) -> Any:
    """The class of a message by its name: of `ensemble.v1` unless it has a package of its own."""
    full = name if "." in name else f"ensemble.v1.{name}"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full))


def _methods(service: str) -> List[Any]:
    return list(pool.FindServiceByName(service).methods)


def handlers(service: str, servicer: Any, most: int) -> Any:
    """What a gRPC server needs to call the servicer's methods of the same names. A message has `most` bytes at most.

    The messages are read here and not by gRPC, which would tell of one that it cannot read in no words of use.
    """
    table: Dict[str, Any] = {}
    for method in _methods(service):
        function = getattr(servicer, method.name)
        read = _reader(_class(method.input_type), most)
        kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        make: Callable[..., Any] = getattr(grpc, f"{kind[0]}_{kind[1]}_rpc_method_handler")
        behavior = _behind(function, read, method.client_streaming)
        table[method.name] = make(behavior, response_serializer=_class(method.output_type).SerializeToString)
    return grpc.method_handlers_generic_handler(service, table)


def _behind(function: Callable[..., Any], read: Callable[[bytes, Any], Any], streaming: bool) -> Callable[..., Any]:
    if streaming:
        return lambda given, context: function((read(data, context) for data in given), context)
    return lambda data, context: function(read(data, context), context)


def _reader(cls: Any, most: int) -> Callable[[bytes, Any], Any]:
    def read(data: bytes, context: Any) -> Any:
        if len(data) > most:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this message has {len(data)} bytes and may have {most}: send less, in several if need be",
            )
        try:
            return cls.FromString(data)
        except DecodeError:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"these bytes are no {cls.DESCRIPTOR.full_name}: call with the messages that reflection describes",
            )

    return read


class Stub:
    """The methods of a service as calls over a channel: `Stub(channel, ENSEMBLES).List(message("ListRequest")())`."""

    def __init__(self, channel: Any, service: str) -> None:
        for method in _methods(service):
            kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
            call = getattr(channel, f"{kind[0]}_{kind[1]}")(
                f"/{service}/{method.name}",
                request_serializer=_class(method.input_type).SerializeToString,
                response_deserializer=_class(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


def _class(descriptor: Any) -> Any:
    return message_factory.GetMessageClass(descriptor)


def pool_with_health() -> Any:
    """A pool that describes our services and the health check, for reflection."""
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    whole = _load()
    for module in (health_pb2, reflection_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        whole.AddSerializedFile(file.SerializeToString())
    return whole
