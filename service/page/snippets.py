"""Code to copy from a job's page: the same job with curl, `winnow prune` and Python, and how to open its manifests."""

import json
import shlex
from typing import Any

_LONG = 8_000  # characters of a request, which may name a hundred thousand paths

_WRITE_DOCUMENTS = """import os
import fsspec, numpy as np, pyarrow.compute as pc, pyarrow.parquet as pq

manifest = pq.read_table("{manifest}", columns=["file", "row"])
os.makedirs("kept")
for i, file in enumerate(manifest["file"].unique().to_pylist()):
    rows = manifest.filter(pc.field("file") == file)["row"].to_numpy()
    if file.lower().endswith(".parquet"):
        with fsspec.open(file) as source:
            table = pq.read_table(source)
        pq.write_table(table.filter(np.isin(np.arange(len(table)), rows)), f"kept/{i:05}.parquet")
    elif not file.lower().endswith((".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz")):
        raise SystemExit(f"{file}: only Parquet and JSON lines, plain or with gzip, are written here")
    else:
        wanted = set(rows.tolist())
        with fsspec.open(file, compression="infer") as source, open(f"kept/{i:05}.jsonl", "wb") as kept:
            kept.writelines(line for row, line in enumerate(source) if row in wanted)"""


def snippets(server: str, job: dict[str, Any], with_key: bool = False) -> dict[str, str]:
    """Code by title. Requests to `server` send the key in WINNOW_KEY if `with_key`."""
    request = job["request"]
    code = {"The same job with curl": curl(server, job, with_key)}
    if len(json.dumps(request)) <= _LONG:
        code["The same job with winnow prune, without a service"] = "\n".join(prune_commands(request))
        code["The same job from Python"] = python(server, request, with_key)
    manifest = f"manifest-{job['selections'][0]['id']}.parquet"
    code |= {f"Open a manifest in {tool}": lines for tool, lines in openers(manifest).items()}
    return code | {"Write the documents that a manifest keeps": write_documents(manifest)}


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


def prune_commands(request: dict[str, Any]) -> list[str]:
    """Commands of `winnow prune`: one if the selections are every criterion at every rate, else one per selection.

    They share an output folder, so that only the first one scores.
    """
    request = _without_nulls(request)
    options = request["corpus"] | request["scoring"]
    options |= request["reference"].get("train") or {"reference": request["reference"]["model"]}
    words = ["winnow", "prune", *options.pop("paths")]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    sweeps: dict[tuple[str, str | None], list[tuple[str, float]]] = {}
    for spec in request["selections"]:
        sweeps.setdefault((spec["unit"], spec.get("within")), []).append((spec["criterion"], spec["rate"]))
    commands = []
    for (unit, within), pairs in sweeps.items():
        shared = ["--unit", unit, *(["--within", within] if within is not None else []), "--out", "pruned"]
        criteria, rates = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
        complete = len(set(pairs)) == len(criteria) * len(rates)
        for some_criteria, some_rates in (
            [(criteria, rates)] if complete else [([c], [r]) for c, r in dict.fromkeys(pairs)]
        ):
            selected = [word for criterion in some_criteria for word in ("--select", criterion)]
            selected += [word for rate in some_rates for word in ("--rate", repr(rate))]
            commands.append(shlex.join([*words, *selected, *shared]))
    return commands


def python(server: str, request: dict[str, Any], with_key: bool = False) -> str:
    """Python code that submits the request, waits for the job and saves its manifests."""
    key = ', headers={"Authorization": f"Bearer {os.environ[\'WINNOW_KEY\']}"}' if with_key else ""
    return f"""import {"os, " if with_key else ""}time, httpx

with httpx.Client(base_url={server!r}, timeout=60{key}) as api:
    job = api.post("/v1/jobs", json={_without_nulls(request)!r}).raise_for_status().json()
    while job["finished_at"] is None:
        time.sleep(2)
        job = api.get(f"/v1/jobs/{{job['id']}}").raise_for_status().json()
    for made in job["selections"]:
        with open(f"manifest-{{made['id']}}.parquet", "wb") as file:
            file.write(api.get(made["manifest_url"]).raise_for_status().content)"""


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


def write_documents(manifest: str) -> str:
    """Python code that writes the documents of a manifest, to one file for each corpus file."""
    return _WRITE_DOCUMENTS.replace("{manifest}", manifest)


def _without_nulls(value: Any) -> Any:
    """A JSON value without the members of objects that are null."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
