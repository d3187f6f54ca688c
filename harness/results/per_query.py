"""``per_query.parquet``: the value of every measure for every query of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import ResultError

_ID = "query_id"


def write_per_query(
    path: Path, query_ids: Sequence[str], values: NDArray[np.float64], measures: Sequence[str]
) -> None:
    """Write values ``(n_queries, n_measures)`` with a column for each measure."""
    columns = {_ID: pa.array(query_ids, pa.string())}
    for position, measure in enumerate(measures):
        columns[measure] = pa.array(values[:, position], pa.float64())
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_per_query(path: Path) -> tuple[list[str], NDArray[np.float64], list[str]]:
    """Return query ids, values ``(n_queries, n_measures)`` and measures.

    Raises
    ------
    ResultError
        If the file is missing or damaged.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ResultError(f"{path} cannot be read ({error}): run the retriever again.") from error
    measures = [name for name in table.column_names if name != _ID]
    values = np.stack([table[name].to_numpy() for name in measures], axis=1)
    return table[_ID].to_pylist(), values, measures
