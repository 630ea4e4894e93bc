"""The command on a job's page that submits the same job again."""

import shlex
from typing import Any

from service.page.snippets import curl
from tests.page.serving import Serving


def test_the_curl_command_submits_the_same_job(serving: Serving, scored: dict[str, Any]) -> None:
    call = shlex.split(curl(serving.url, scored))
    answer = serving.api.post(call[1], content=call[-1], headers=dict([call[3].split(": ")]))
    assert answer.json()["request"] == scored["request"]
