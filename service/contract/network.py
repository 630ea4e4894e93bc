"""Facts about network addresses that settings and authentication share."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address, as a user writes it, is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
