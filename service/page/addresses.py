"""Addresses of the page that name a selection."""

from typing import Any
from urllib.parse import urlencode

from pruner.spec import SelectionSpec


def selection_address(job_id: str, spec: dict[str, Any], answer: dict[str, Any]) -> str:
    """Where a job's page shows the selection of a request, by the API's answer to it: made, or being made."""
    made = "manifest_url" in answer
    query = {"selection": answer["id"] if made else SelectionSpec.model_validate(spec).id}
    return f"/jobs/{job_id}?{urlencode(query | ({} if made else {'requested': '1'}))}"
