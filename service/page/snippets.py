"""How to do a job again: the same request as curl, as a command line and as Python, and how to open what comes out."""

import json
import shlex
from typing import Any

_LONG = 8_000  # characters of a request, which may name a hundred thousand paths


def minimal(request: dict[str, Any]) -> dict[str, Any]:
    """A request without what is default or null."""
    made = {name: value for name, value in request.items() if value is not None}
    corpus = {name: value for name, value in request["corpus"].items() if value is not None}
    if corpus.get("text_field") == "text":
        del corpus["text_field"]
    made["corpus"] = corpus
    made["reference"] = {name: value for name, value in request["reference"].items() if value is not None}
    scoring = {name: value for name, value in request.get("scoring", {}).items() if value not in (None, "auto")}
    made.pop("scoring", None)
    if scoring:
        made["scoring"] = scoring
    made["selections"] = [
        {name: value for name, value in spec.items() if value not in (None, "documents")}
        for spec in request["selections"]
    ]
    return made


def ways(server: str, job: dict[str, Any], keyed: bool = False) -> dict[str, str]:
    """How to do a job again and what to do with its manifest: title -> code; with a key where the service takes one."""
    request = job["request"]
    made = {"The same job with curl": curl(server, job, keyed)}
    if len(json.dumps(request)) <= _LONG:
        made["The same with winnow prune, with no server"] = "\n".join(command(request))
        made["The same from Python"] = python(server, request, keyed)
    name = f"manifest-{job['selections'][0]['id']}.parquet"
    made |= {f"Open a manifest in {tool}": code for tool, code in openers(name).items()}
    return made | {"Write the documents that a manifest keeps": documents(name)}


def curl(server: str, job: dict[str, Any], keyed: bool = False) -> str:
    """A call of curl, or, of a long request, a few that pass it on."""
    body = json.dumps(minimal(job["request"]), ensure_ascii=False, indent=1)
    key = ' -H "Authorization: Bearer $WINNOW_KEY"' if keyed else ""
    submit = f"curl {shlex.quote(server + '/v1/jobs')} -H 'Content-Type: application/json'{key} -d"
    if len(body) <= _LONG:
        return f"{submit} {shlex.quote(body)}"
    ask = f"curl -s{key} {shlex.quote(server + '/v1/jobs/' + job['id'])}"
    take = """python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["request"], sys.stdout)'"""
    return f"{ask} |\n  {take} |\n  {submit} @-"


def command(request: dict[str, Any]) -> list[str]:
    """Lines of `winnow prune`: one for the job or, where the selections are no full sweep, one for each of them.

    A later line scores nothing again, as they share their output folder.
    """
    corpus, reference, scoring = request["corpus"], request["reference"], request.get("scoring") or {}
    words = ["winnow", "prune", *corpus["paths"]]
    flags = {
        "--text-field": corpus["text_field"] if corpus["text_field"] != "text" else None,
        "--id-field": corpus["id_field"],
        "--domain-field": corpus["domain_field"],
        "--reference": reference["model"],
        **{f"--{name}": value for name, value in (reference["train"] or {}).items()},
        "--stride": scoring.get("stride"),
        "--dtype": scoring.get("dtype") if scoring.get("dtype") != "auto" else None,
    }
    for name, value in flags.items():
        if value is not None:
            words += [name, str(value)]
    lines = []
    for criteria, rates, unit, within in _sweeps(request["selections"]):
        line = list(words)
        for criterion in criteria:
            line += ["--select", criterion]
        for rate in rates:
            line += ["--rate", repr(rate).removesuffix(".0")]
        line += ["--unit", unit] if unit != "documents" else []
        line += ["--within", within] if within is not None else []
        lines.append(shlex.join([*line, "--out", "pruned"]))
    return lines


def _sweeps(selections: list[dict[str, Any]]) -> list[tuple[list[str], list[float], str, str | None]]:
    """Selections as sweeps of every criterion at every rate."""
    kinds: dict[tuple[str, str | None], list[tuple[str, float]]] = {}
    for spec in selections:
        kinds.setdefault((spec["unit"], spec["within"]), []).append((spec["criterion"], spec["rate"]))
    sweeps = []
    for (unit, within), pairs in kinds.items():
        criteria, rates = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
        if len(set(pairs)) == len(criteria) * len(rates):
            sweeps.append((criteria, rates, unit, within))
        else:
            sweeps += [([criterion], [rate], unit, within) for criterion, rate in dict.fromkeys(pairs)]
    return sweeps


def python(server: str, request: dict[str, Any], keyed: bool = False) -> str:
    """A few lines of Python that submit the job, wait and save its manifests."""
    key = ', headers={"Authorization": f"Bearer {os.environ[\'WINNOW_KEY\']}"}' if keyed else ""
    return f"""import {"os, " if keyed else ""}time, httpx

with httpx.Client(base_url={server!r}, timeout=60{key}) as api:
    job = api.post("/v1/jobs", json={minimal(request)!r}).raise_for_status().json()
    while job["finished_at"] is None:
        time.sleep(2)
        job = api.get(f"/v1/jobs/{{job['id']}}").raise_for_status().json()
    for made in job["selections"]:
        with open(f"manifest-{{made['id']}}.parquet", "wb") as file:
            file.write(api.get(made["manifest_url"]).raise_for_status().content)"""


def openers(name: str) -> dict[str, str]:
    """How tools open a manifest, by the tool's name."""
    return {
        "datasets": "from datasets import load_dataset\n"
        f'kept = load_dataset("parquet", data_files={name!r}, split="train")',
        "DuckDB": "import duckdb\n"  # noqa: S608 (it is shown, not run)
        f"kept = duckdb.read_parquet({name!r})\n"
        'duckdb.sql("select domain, count(*), sum(n_tokens) from kept group by all").show()',
        "Polars": f"import polars as pl\nkept = pl.read_parquet({name!r})",
    }


def documents(name: str) -> str:
    """A few lines of Python that write what a manifest keeps: a file of whole documents for each of the corpus."""
    return f"""import os
import fsspec, numpy as np, pyarrow.compute as pc, pyarrow.parquet as pq

manifest = pq.read_table({json.dumps(name)}, columns=["file", "row"])
os.makedirs("kept")
for i, file in enumerate(manifest["file"].unique().to_pylist()):
    rows = manifest.filter(pc.field("file") == file)["row"].to_numpy()
    if file.endswith(".parquet"):
        with fsspec.open(file) as source:
            table = pq.read_table(source)
        pq.write_table(table.filter(np.isin(np.arange(len(table)), rows)), f"kept/{{i:05}}.parquet")
    else:
        wanted = set(rows.tolist())
        with fsspec.open(file, compression="infer") as source, open(f"kept/{{i:05}}.jsonl", "wb") as kept:
            kept.writelines(line for row, line in enumerate(source) if row in wanted)"""
