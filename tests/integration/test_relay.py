"""What stands between servers in tests and benchmarks must not slow what it passes on."""

import socket

from testbed.relay import relaying


def test_no_byte_waits_for_an_acknowledgement():
    """With Nagle's algorithm a write of three NATS servers took 54 ms through relays, and 2 ms without it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        relaying(server.getsockname()[1]) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"there")
        assert accepted.recv(5) == b"there"
        accepted.sendall(b"back")
        assert client.recv(4) == b"back"
        ends = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in relay._open]
    assert len(ends) == 2
    assert all(ends)
