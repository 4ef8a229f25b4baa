"""A gRPC server with Triton's service, answered by what a test hands in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tritonclient.grpc import service_pb2_grpc


@asynccontextmanager
async def serve(servicer: service_pb2_grpc.GRPCInferenceServiceServicer) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """Serve on a free port of the loopback; yield the server and its address."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
