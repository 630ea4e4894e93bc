"""Network addresses: which hosts are this machine, and the paths of the API."""

import ipaddress
from urllib.parse import quote


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address, as a user writes it, is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def job_path(job_id: str, *more: str) -> str:
    """The path of a job's resource in the API; the id may be any text."""
    return "/".join(["/v1/jobs", *(quote(part, safe="") for part in (job_id, *more))])
