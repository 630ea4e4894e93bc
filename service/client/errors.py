"""The exceptions of the client."""

from typing import NamedTuple

import httpx
from pydantic import ValidationError

from service.contract.ablations import Ablation
from service.contract.schemas import Export, Job, Problem


class ClientError(Exception):
    """A call failed. The message is one line."""


class ServiceUnreachable(ClientError):
    """No service answers, or the connection was lost, for longer than the client retries."""


class NotSent(ClientError):
    """The request cannot be sent as it is: a header, a path or a value that HTTP or JSON does not allow."""


class DamagedDownload(ClientError):
    """A downloaded file has another SHA-256 than the service says. It was deleted."""


class NotSaved(ClientError):
    """A download cannot be written where it was asked for."""


class UnknownAnswer(ClientError):
    """The service's answer is not what this version of the client knows."""


class NotSucceeded(ClientError):
    """A job, export or ablation that was waited for has failed or was cancelled. `ended` is its last state."""

    def __init__(self, message: str, ended: Job | Export | Ablation) -> None:
        super().__init__(message)
        self.ended = ended


class FieldError(NamedTuple):
    """A wrong field of a request: its dotted name, such as `selections.0.rate`, and what is wrong."""

    field: str
    message: str


class ApiError(ClientError):
    """The service answered with an error, an RFC 9457 problem. The message is its `detail`.

    `errors` are the wrong fields of the request, if it has any (422). `problem` has all members of the answer, such as
    `quota` (429).
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after = retry_after  # seconds, as the service asks for
        self.status, self.title, self.detail = problem.status, problem.title, problem.detail
        members = problem.model_extra or {}
        self.errors = [FieldError(str(each["field"]), str(each["message"])) for each in members.get("errors", ())]


def api_error(answer: httpx.Response) -> ApiError:
    """The error for an answer, read before, whose status is not a success."""
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        detail = f"{answer.request.url} answered {answer.status_code} and is not a Winnow service"
        problem = Problem(title=answer.reason_phrase or "Error", status=answer.status_code, detail=detail)
    retry_after = answer.headers.get("retry-after", "")
    return ApiError(problem, float(retry_after) if retry_after.isdecimal() else None)
