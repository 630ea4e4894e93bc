"""Makes selections over score tables: exact, streamed, on all cores, in memory that no number of rows grows."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pruner.ranks.parts import Workers
from pruner.ranks.table_ranking import TableRanking
from pruner.score_tables.columns import check_columns, rank_key
from pruner.score_tables.ordered import Ordered
from pruner.score_tables.tables import Tables
from pruner.score_tables.write_manifest import ManifestFile, manifest_schema, write_kept
from pruner.spec import Order, SelectionSpec
from pruner.tables.table_writer import TableWriter

OnProgress = Callable[[str, int, int], None]  # the step, and how many of its parts are done


class SelectedTables(NamedTuple):
    """What a selection keeps of score tables. The lowest and highest key are None if it keeps nothing."""

    spec: SelectionSpec
    manifest: Path
    documents: int
    tokens: int | None  # None where the tables have none
    ranked: int  # N
    left_out: dict[str, int]  # rows of the tables that are not among N, by reason
    lowest: float | None
    highest: float | None


def select_tables(
    tables: Tables,
    column: str | None,
    specs: Sequence[SelectionSpec],
    path_of: Callable[[SelectionSpec], Path],
    about: dict[str, Any],
    threads: int,
    on_progress: OnProgress = lambda _step, _done, _of: None,
) -> list[SelectedTables]:
    """Writes the manifest of each selection: the kept rows in the order of the tables, with their percentiles.

    Rows are ordered by a numeric column, by default by nll / n_tokens, equal ones by (table, row). Rows without a
    number, and those of Winnow's tables with a reject or of the train split, are not among the N that selections choose
    from. `about` goes into the provenance. Temporary files beside the manifests take up to 40 bytes a row. Raises
    InputError.
    """
    for spec in specs:
        check_columns(tables, spec)
    orders: dict[tuple[Order, bool], list[SelectionSpec]] = {}
    for spec in specs:
        orders.setdefault((spec.order, spec.within is not None), []).append(spec)
    folder = path_of(specs[0]).parent

    def workers(step: str) -> Workers:
        return Workers(threads, lambda done: on_progress(step, done, len(tables.parts)))

    with ExitStack() as stack:
        ordered: dict[SelectionSpec, Ordered] = {}
        for (order, within), some in orders.items():
            by_tokens = any(spec.unit == "tokens" for spec in some)
            source = TableRanking(tables, rank_key(tables, column, order), tokens=by_tokens, within=within)
            ordered |= dict.fromkeys(some, Ordered(tables, source, some, folder, workers, stack))
        outputs = [_Output(tables, ordered[spec], spec, path_of(spec), about) for spec in specs]
        for output in outputs:
            stack.callback(output.file.discard)

        def write(part: int) -> list["_Piece"]:
            return _write_part(tables, dict.fromkeys(ordered.values()), outputs, part)

        for pieces in workers("writing").run(write, len(tables.parts)):
            for output, piece in zip(outputs, pieces, strict=True):
                output.take(piece)
        return [output.complete() for output in outputs]


class _Piece(NamedTuple):
    """The rows that a selection keeps of a part, and their lowest and highest key, None if it keeps none."""

    file: BinaryIO
    ends: tuple[int, int] | None


class _Output:
    """A manifest that is being written."""

    def __init__(
        self, tables: Tables, ordered: Ordered, spec: SelectionSpec, path: Path, about: dict[str, Any]
    ) -> None:
        self.spec, self.path, self._ordered = spec, path, ordered
        self.file = ManifestFile(path, folder=ordered.is_folder(spec))
        provenance = {
            "selection": spec.model_dump(),
            "key": ordered.source.rank_key.name,
            "tables": [{"name": one.name, "rows": one.rows, "footer_sha256": one.footer} for one in tables.tables],
            "documents": ordered.documents,
            "left_out": ordered.source.left_out,
            "percentile": ordered.percentile_rule(spec),
        }
        self.schema = manifest_schema(tables.copied, about | provenance)
        self._ends: list[tuple[int, int]] = []

    def take(self, piece: _Piece) -> None:
        with piece.file:
            self.file.add(piece.file)
        if piece.ends is not None:
            self._ends.append(piece.ends)

    def complete(self) -> SelectedTables:
        self.file.commit()
        source, cuts = self._ordered.source, self._ordered.cuts[self.spec]
        low, high = None, None
        if self._ends:
            low = source.rank_key.value(min(low for low, _ in self._ends))
            high = source.rank_key.value(max(high for _, high in self._ends))
        return SelectedTables(
            spec=self.spec,
            manifest=self.path,
            documents=int(cuts.documents.sum()),
            tokens=int(cuts.tokens.sum()) if source.counts_tokens else None,
            ranked=self._ordered.documents,
            left_out=source.left_out,
            lowest=low,
            highest=high,
        )


def _write_part(tables: Tables, orders: Iterable[Ordered], outputs: list[_Output], part: int) -> list[_Piece]:
    """Writes the rows of a part that each selection keeps into a temporary file."""
    kept = {spec: found for ordered in orders for spec, found in ordered.kept(part).items()}
    # Closed when they are taken.
    files = [cast(BinaryIO, tempfile.TemporaryFile(dir=output.path.parent)) for output in outputs]  # noqa: SIM115
    with ExitStack() as stack:
        writers = [
            stack.enter_context(TableWriter(file, output.schema)) for file, output in zip(files, outputs, strict=True)
        ]
        write_kept(tables.batches(part), writers, [kept[output.spec][0] for output in outputs])
    return [_Piece(file, kept[output.spec][1]) for file, output in zip(files, outputs, strict=True)]
