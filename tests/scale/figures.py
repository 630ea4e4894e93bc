"""Figures of a benchmark: percentiles, and a table with a column for each size and the missed targets."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured value. It is missed if it is over the target."""

    name: str
    unit: str
    value: float
    target: float | None = None

    @property
    def missed(self) -> bool:
        return self.target is not None and not self.value <= self.target


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def table(columns: dict[str, list[Figure]]) -> str:
    """Figures of the same names, one column for each size; lines that miss their target end with MISSED."""
    width = max(len(figure.name) for figures in columns.values() for figure in figures)
    lines = [f"{'':{width}}" + "".join(f"{title:>20}" for title in columns) + "   target"]
    for row in zip(*columns.values(), strict=True):
        cells = "".join(f"{_number(figure.value)} {figure.unit}".rjust(20) for figure in row)
        target = row[0].target
        verdict = "" if target is None else f"   < {_number(target)} {row[0].unit}"
        missed = "   MISSED" if any(figure.missed for figure in row) else ""
        lines.append(f"{row[0].name:{width}}{cells}{verdict}{missed}")
    return "\n".join(lines)


def show(columns: dict[str, list[Figure]]) -> int:
    """Prints the table. Returns the exit status: 1 if a target is missed."""
    sys.stdout.write(table(columns) + "\n")
    return int(any(figure.missed for figures in columns.values() for figure in figures))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
