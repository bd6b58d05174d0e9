"""gRPC channel settings that client and server must agree on."""

from __future__ import annotations

from protos.teacher_info import Limits

ChannelOptions = list[tuple[str, int | str]]

KEEPALIVE_S = 10
KEEPALIVE_TIMEOUT_S = 3
RECONNECT_MS = (100, 1000)
"""First and longest wait of a channel between two attempts to connect, milliseconds."""


def client_options() -> ChannelOptions:
    """Notice a frozen server within about KEEPALIVE_S + KEEPALIVE_TIMEOUT_S.

    Answers come in chunks of about a MiB, but a single row over a whole vocabulary may be a few MiB, hence the
    raised receive limit. What the client may send is the server's affair.
    """
    return [
        ("grpc.max_receive_message_length", Limits().max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        # Without it a frozen peer is noticed only after a minute, whatever the timeout above says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # Channels of a process share connections, and with them how long to wait after a failure: a new channel to a
        # server that just came back would wait for up to two minutes.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
    ]


def server_options(max_message_bytes: int) -> ChannelOptions:
    """Accept the client's pings, one owner per port, and messages up to the published limit."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # A default server sends clients that ping more often than every five minutes away (GOAWAY, too_many_pings).
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
    ]
