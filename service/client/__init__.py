"""The Python client of the HTTP API: `Client`, and `AsyncClient` with the same methods as coroutines."""

from service.client.client import AsyncClient, Client
from service.client.errors import (
    ApiError,
    ClientError,
    DamagedDownload,
    FieldError,
    NotSaved,
    NotSent,
    NotSucceeded,
    ServiceUnreachable,
    UnknownAnswer,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "DamagedDownload",
    "FieldError",
    "NotSaved",
    "NotSent",
    "NotSucceeded",
    "ServiceUnreachable",
    "UnknownAnswer",
]
