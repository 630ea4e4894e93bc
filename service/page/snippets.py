"""Code to copy from a job's page: submit the same job with curl, and open its manifests."""

import json
import shlex
from typing import Any

_LONG = 8_000  # characters of a request, which may name a hundred thousand paths


def snippets(server: str, job: dict[str, Any], with_key: bool = False) -> dict[str, str]:
    """Code by title. Requests to `server` send the key in WINNOW_KEY if `with_key`."""
    manifest = f"manifest-{job['selections'][0]['id']}.parquet"
    opened = {f"Open a manifest in {tool}": lines for tool, lines in openers(manifest).items()}
    return {"The same job with curl": curl(server, job, with_key), **opened}


def curl(server: str, job: dict[str, Any], with_key: bool = False) -> str:
    """A curl command that submits the job; of a long request, one that gets it from the service first."""
    body = json.dumps(_without_nulls(job["request"]), ensure_ascii=False, indent=1)
    key = ' -H "Authorization: Bearer $WINNOW_KEY"' if with_key else ""
    submit = f"curl {shlex.quote(server + '/v1/jobs')} -H 'Content-Type: application/json'{key} -d"
    if len(body) <= _LONG:
        return f"{submit} {shlex.quote(body)}"
    get = f"curl -s{key} {shlex.quote(server + '/v1/jobs/' + job['id'])}"
    extract = """python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["request"], sys.stdout)'"""
    return f"{get} |\n  {extract} |\n  {submit} @-"


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


def _without_nulls(value: Any) -> Any:
    """A JSON value without the members of objects that are null."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
