"""Tests of network addresses, shared by the settings and the authentication."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address, as a user writes it, is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
