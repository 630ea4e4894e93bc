"""The form of a selection by several scores, as the JSON of the API; and its fields by the errors of the API."""

import json
import re
from typing import Any

from service.page.forms import LIMITS, Form, first_value, number, share

STAGES, TERMS = 4, 4  # rows of the form
THRESHOLDS = "thresholds"
_RULES = {"criterion": "rule", "seed": "rule"}  # fields of the API whose field of the form has another name


def composite_request(form: Form) -> dict[str, Any]:
    """The selection of the form; rows that are empty are left out. The API checks the values."""
    spec: dict[str, Any] = {"name": name} if (name := _value(form, "name")) else {}
    kind = _value(form, "kind", "stages")
    if kind == "stages":
        return spec | {"stages": [_stage(form, row) for row in stage_rows(form)]}
    if kind == "difference":
        spec["difference"] = [_value(form, "first"), _value(form, "second")]
    else:
        terms = [(_value(form, f"term_{row}"), _value(form, f"weight_{row}", "1")) for row in term_rows(form)]
        spec["rank_sum"] = [[score, number(weight, int)] for score, weight in terms]
    return spec | _rule(form, "")


def stage_rows(form: Form) -> list[int]:
    """The rows of the form that are stages: those with a rule."""
    return [row for row in range(STAGES) if _value(form, f"rule_{row}")]


def term_rows(form: Form) -> list[int]:
    """The rows of the form that are terms of a sum of ranks: those with a score."""
    return [row for row in range(TERMS) if _value(form, f"term_{row}")]


def as_json(spec: dict[str, Any]) -> str:
    """The selection as text for people: a line for each stage."""
    lines = []
    for name, value in spec.items():
        text = json.dumps(value, ensure_ascii=False)
        if name == "stages":
            text = "[" + ",\n            ".join(json.dumps(stage, ensure_ascii=False) for stage in value) + "]"
        lines.append(f"{json.dumps(name)}: {text}")
    return "{" + ",\n ".join(lines) + "}"


def field_of(error: dict[str, str], form: Form) -> str:
    """The field of the form, without its prefix, that an error of the API is about; empty for none."""
    path, message = error["field"], error["message"]
    rows = stage_rows(form)
    in_stage = re.match(r"stages\.(\d+)(?:\.(\w+))?$", path)
    if in_stage and int(in_stage[1]) < len(rows):
        return f"{_RULES.get(in_stage[2] or '', in_stage[2] or 'rule')}_{rows[int(in_stage[1])]}"
    in_sum = re.match(r"rank_sum\.(\d+)(?:\.(\d+))?$", path)
    if in_sum and int(in_sum[1]) < len(term_rows(form)):
        return f"{'weight' if in_sum[2] == '1' else 'term'}_{term_rows(form)[int(in_sum[1])]}"
    if path.startswith("difference"):
        return "second" if path.endswith(".1") else "first"
    if path in ("name", "criterion", "rate", "unit", "within"):
        return _RULES.get(path, path)
    if path in ("stages", "rank_sum"):
        return "rule_0" if path == "stages" else "term_0"
    return _named(message, form)


def _named(message: str, form: Form) -> str:
    """The field of the form that an error without a path names."""
    if "the name" in message or message.startswith("'all' is the name"):
        return "name"
    kind = _value(form, "kind", "stages")
    quoted = re.search(r"score '([^']*)'", message)
    if kind == "difference" and message.startswith("difference"):
        wrong = re.search(r"'([^']*)' is no reference", message)
        return "second" if wrong and wrong[1] != _value(form, "first") else "first"
    if quoted and kind == "rank_sum":
        return next((f"term_{row}" for row in term_rows(form) if _value(form, f"term_{row}") == quoted[1]), "term_0")
    if kind == "stages":
        by_score = [row for row in stage_rows(form) if quoted and _value(form, f"score_{row}") == quoted[1]]
        if message.startswith("score: the job has no reference"):
            by_score = [row for row in stage_rows(form) if not _value(form, f"score_{row}")]
        if by_score:
            return f"score_{by_score[0]}"
    for field in ("unit", "within"):
        if message.startswith(f"{field}:") or (field == "within" and "within 'domain'" in message):
            rows = [row for row in stage_rows(form) if _value(form, f"{field}_{row}")] if kind == "stages" else []
            return f"{field}_{rows[0]}" if rows else field
    return ""


def _stage(form: Form, row: int) -> dict[str, Any]:
    stage: dict[str, Any] = {"score": score} if (score := _value(form, f"score_{row}")) else {}
    if _value(form, f"rule_{row}") == THRESHOLDS:
        return stage | {name: number(text, float) for name in LIMITS if (text := _value(form, f"{name}_{row}"))}
    return stage | _rule(form, f"_{row}")


def _rule(form: Form, row: str) -> dict[str, Any]:
    """The criterion of a stage or of the whole, and what belongs to it."""
    rule = {"criterion": _value(form, f"rule{row}", "medium"), "rate": share(_value(form, f"rate{row}", "0.5"))}
    if (unit := _value(form, f"unit{row}")) == "tokens":
        rule["unit"] = unit
    if _value(form, f"within{row}"):
        rule["within"] = "domain"
    return rule


def _value(form: Form, name: str, default: str = "") -> str:
    """A field of the form; an empty one is the default."""
    return first_value(form, f"composite_{name}") or default
