"""Columns of further scorers in the table of scores: FineWeb-Edu's integer score, and numbers in fields."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pruner.corpus.files import CorpusFile
from pruner.corpus.names import Format
from pruner.corpus.numbers import field_numbers
from pruner.corpus.paths import CorpusPath
from pruner.select.further import int_score
from pruner.tables.values import with_text


def test_integer_scores_are_rounded_as_fineweb_edu_rounds_them() -> None:
    values = [-3.0, -0.5, 0.0, 0.5, 0.50001, 1.5, 2.4999, 2.5, 2.5001, 3.5, 4.5, 4.51, 5.0, 7.3]
    single = np.array(values, np.float32)
    found = int_score(pa.chunked_array([pa.array([*single, None], pa.float32())]))
    assert found.type == pa.int64()
    assert found.to_pylist() == [*(round(max(0, min(value, 5))) for value in single.tolist()), None]
    assert found.to_pylist()[3:8] == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (pa.array([1, None, 3], pa.int8()), [1, None, 3]),
        (pa.array([1.5, math.nan, math.inf], pa.float32()), [1.5, None, None]),
        (pa.array([2**60 + 1, 0, -1]), [float(2**60), 0, -1]),
        (pa.array([True, False, None]), [None] * 3),
        (pa.array(["1", "2.5", "x"]), [None] * 3),
        (pa.array(["1", '"2.5"', "[1]"], pa.large_string()), [1, None, None]),
        (pa.array(["1e3", "NaN", "null"], pa.large_string()), [1000, None, None]),
        (pa.nulls(3), [None] * 3),
        (pa.array(["a", "b", "a"]).dictionary_encode(), [None] * 3),
    ],
)
def test_numbers_of_a_field(column: pa.Array, numbers: list[float | None]) -> None:
    assert field_numbers(batch(column), "q", [file("jsonl")]).to_pylist() == numbers


def test_numbers_in_texts_of_csv_files() -> None:
    column = pa.array(['"1"', '"-2.5"', '""', '"1_0"', None], pa.large_string())
    assert field_numbers(batch(column), "q", [file("csv")]).to_pylist() == [1, -2.5, None, None, None]


def test_values_stand_at_the_rows_with_text() -> None:
    rows = pa.record_batch({"reject": pa.array([None, "empty text", None, None])})
    found = with_text(rows, np.array([1.5, np.nan, -2.0]), pa.float32())
    assert (found.type, found.to_pylist()) == (pa.float32(), [1.5, None, None, -2.0])


def batch(column: pa.Array) -> pa.RecordBatch:
    source = pa.StructArray.from_arrays([column], ["q"])
    return pa.record_batch({"file": pa.array([0] * len(column), pa.int32()), "source": source})


def file(kind: Format) -> CorpusFile:
    return CorpusFile(CorpusPath("file", "/a"), format=kind, compression=None, size=1, version="")
