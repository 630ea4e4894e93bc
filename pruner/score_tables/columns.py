"""Which columns of score tables an order and a selection need."""

import pyarrow as pa

from pruner.errors import InputError
from pruner.ranks.rank_key import RankKey, column_key, hash_key, mean_key
from pruner.score_tables.tables import Tables
from pruner.spec import BY_TOKEN, Order, SelectionSpec


def rank_key(tables: Tables, column: str | None, order: Order) -> RankKey:
    """What an order ranks the rows by: a column, a mean NLL, or a hash. Raises InputError for missing columns.

    A hash ranks the rows that have a number in the column, or a mean NLL, so that a random selection has the same N.
    """
    if order.by == "hash":
        return hash_key(order.seed, rank_key(tables, column, BY_TOKEN))
    if column is not None:
        kind = _type_of(tables, column, "")
        if not is_numeric(kind):
            raise InputError(f"the column {column!r} holds {kind}, not numbers; {_choices(tables)}")
        return column_key(column, kind)
    divisor = "n_bytes" if order.by == "byte" else "n_tokens"
    for name in ("nll", divisor):
        kind = _type_of(tables, name, f"; {_choices(tables)}")
        if not is_numeric(kind):
            raise InputError(f"the column {name!r} holds {kind}, not numbers; {_choices(tables)}")
    return mean_key(divisor)


def check_columns(tables: Tables, spec: SelectionSpec) -> None:
    """Raises InputError where a selection needs a column that the tables do not have."""
    if spec.unit == "tokens":
        kind = _type_of(tables, "n_tokens", ", which the unit tokens needs: select by documents")
        if not pa.types.is_integer(kind):
            raise InputError(f"the column 'n_tokens' holds {kind}; the unit tokens needs integers")
    if spec.within is not None:
        kind = _type_of(tables, "domain", ", within which to select")
        if pa.types.is_nested(kind):
            raise InputError(f"the column 'domain' holds {kind}; a domain is a string or a number")


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type can be ranked by."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _choices(tables: Tables) -> str:
    names = [field.name for field in tables.schema if is_numeric(field.type)]
    return f"--key can be {', '.join(names)}" if names else "none of its columns holds numbers"


def _type_of(tables: Tables, name: str, hint: str) -> pa.DataType:
    if name not in tables.schema.names:
        raise InputError(f"{tables.tables[0].path.url}: has no column {name!r}{hint or '; ' + _choices(tables)}")
    return tables.schema.field(name).type
