"""Code to copy from a job's page: submit the same job with curl and in Python, and open its manifests."""

import json
import shlex
from pprint import pformat
from typing import Any

from service.contract.network import job_path

_LONG = 8_000  # characters of a request, which may name a hundred thousand paths


def snippets(server: str, job: dict[str, Any], with_key: bool = False) -> dict[str, str]:
    """Code by title. Requests to `server` send the key in WINNOW_KEY if `with_key`."""
    made = job["selections"][0]
    manifest = f"manifest-{made['id']}.parquet" + ("/*.parquet" if made.get("parts") else "")
    opened = {f"Open a manifest in {tool}": lines for tool, lines in openers(manifest).items()}
    submitted = {"with curl": curl(server, job, with_key), "in Python": python(server, job, with_key)}
    return {f"The same job {tool}": lines for tool, lines in submitted.items()} | opened


def curl(server: str, job: dict[str, Any], with_key: bool = False) -> str:
    """A curl command that submits the job; of a long request, one that gets it from the service first."""
    body = json.dumps(_without_nulls(job["request"]), ensure_ascii=False, indent=1)
    key, submit = _key_header(with_key), _post(server + "/v1/jobs", with_key)
    if len(body) <= _LONG:
        return f"{submit} {shlex.quote(body)}"
    get = f"curl -s{key} {shlex.quote(server + '/v1/jobs/' + job['id'])}"
    extract = """python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["request"], sys.stdout)'"""
    return f"{get} |\n  {extract} |\n  {submit} @-"


def python(server: str, job: dict[str, Any], with_key: bool = False) -> str:
    """Python code that submits the job, waits and saves its manifests; a long request is taken from the service."""
    request = pformat(_without_nulls(job["request"]), sort_dicts=False, width=100)
    request = request.replace("\n", "\n" + " " * len("request = "))
    if len(request) > _LONG:
        request = f"client.get_job({job['id']!r}).request"
    key = ', key=os.environ["WINNOW_KEY"]' if with_key else ""
    lines = [
        *(("import os", "") if with_key else ()),
        "from service.client import Client",
        "",
        f"client = Client({server!r}{key})",
        f"request = {request}",
        "job = client.create_job(request)",
        "job = client.wait_for_job(job.id, lambda job: print(job.status, job.progress.documents_done))",
        "for selection in job.selections:",
        '    client.download_manifest(job.id, selection.id, f"manifest-{selection.id}.parquet")',
    ]
    return "\n".join(lines)


def export_commands(server: str, job_id: str, export: dict[str, Any], with_key: bool = False) -> list[str]:
    """Shell commands that make an export of a job again: `winnow export`, and the call of the API with curl."""
    options = {name: export[name] for name in ("format", "scores", "out")}
    path = job_path(job_id, "selections", export["selection"], "exports")
    call = f"{_post(server + path, with_key)} {shlex.quote(json.dumps(_without_nulls(options), ensure_ascii=False))}"
    if options["out"] is not None and "://" not in options["out"]:  # `winnow export` would fill a folder of its user
        return [call]
    command = ["winnow", "export", job_id, "--server", server, "--selection", export["selection"]]
    command += ["--format", options["format"], *(["--scores"] if options["scores"] else [])]
    return [shlex.join([*command, "--out", options["out"] or export["selection"]]), call]


def openers(manifest: str) -> dict[str, str]:
    """Python code that opens a manifest, by tool."""
    return {
        "datasets": "from datasets import load_dataset\n"
        f'kept = load_dataset("parquet", data_files={manifest!r}, split="train")',
        "DuckDB": "import duckdb\n"  # noqa: S608 (shown, not run)
        f"kept = duckdb.read_parquet({manifest!r})\n"
        'duckdb.sql("select domain, count(*), sum(n_tokens) from kept group by all").show()',
        "Polars": f"import polars as pl\nkept = pl.read_parquet({manifest!r})",
    }


def _post(url: str, with_key: bool) -> str:
    """The start of a curl command that posts JSON, which follows."""
    return f"curl {shlex.quote(url)} -H 'Content-Type: application/json'{_key_header(with_key)} -d"


def _key_header(with_key: bool) -> str:
    return ' -H "Authorization: Bearer $WINNOW_KEY"' if with_key else ""


def _without_nulls(value: Any) -> Any:
    """A JSON value without the members of objects that are null."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
