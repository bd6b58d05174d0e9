"""Where a server listens: "host:port", IPv6 in brackets."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than localhost counts as reachable by others."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_for_url(host: str) -> str:
    """`host` as it stands before a colon and a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def host_of(address: str) -> str:
    """The host of "host:port", without brackets."""
    return address.rpartition(":")[0].strip("[]")
