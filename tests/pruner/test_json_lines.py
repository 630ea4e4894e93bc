"""JSON lines of tables are those that a JSON library writes row by row."""

import math
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.tables.json_lines import json_lines

ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(),
        "plain": st.sampled_from(["a", "ü", "", "日本,}"]),
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "number": st.none() | st.floats(),
        "flag": st.none() | st.booleans(),
        'a "name"': st.just(1),
        "some": st.none() | st.lists(st.integers(0, 9), max_size=2),
    }
)
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("plain", pa.string()),
        ("whole", pa.int64()),
        ("number", pa.float64()),
        ("flag", pa.bool_()),
        ('a "name"', pa.int8()),
        ("some", pa.list_(pa.int64())),
    ]
)


@given(st.lists(ROWS, min_size=1, max_size=20))
@example([{"text": '"\\\x00', "plain": "", "whole": -1, "number": math.inf, "flag": None, 'a "name"': 1, "some": []}])
def test_lines_are_those_of_a_json_library(rows: list[dict[str, Any]]) -> None:
    lines = bytes(json_lines(pa.RecordBatch.from_pylist(rows, schema=SCHEMA)))
    ordered = [{name: row[name] for name in SCHEMA.names} for row in rows]
    assert lines == b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in ordered)


@pytest.mark.parametrize("start", [0, 3])
def test_slices_of_batches_are_written_as_they_are(start: int) -> None:
    batch = pa.record_batch({"x": pa.array([0.5, None, 2.0, 3.25, None], pa.float32()), "s": list("abcde")})
    lines = bytes(json_lines(batch.slice(start))).splitlines()
    assert [orjson.loads(line) for line in lines] == batch.slice(start).to_pylist()
