"""Writes the tables of docs/findings.md from the figures that findings.py left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.statistics import bootstrap_interval

HERE = Path(__file__).parent
FIGURES = HERE.parent / "results" / "findings" / "figures.json"
VALUES = HERE.parent / "results" / "findings" / "values.parquet"
PAGE = HERE.parent / "docs" / "findings.md"

#: Ends of the names of rows that score all modalities.
_SCORED = (", token_max", ", modality_max")

#: Types of queries, in the order of columns; `joint` ones need two modalities.
TYPES = {"video": "video", "asr": "asr", "ocr": "ocr", "description": "description", "joint": "two"}

#: Tables of the page: rows of the figures with what they are called, the first one the baseline.
TABLES: Mapping[str, Mapping[str, str]] = {
    "aggregation": {
        "joint, token_max": "trained by `modality_max`, scored by `token_max`",
        "joint, modality_max": "trained by `modality_max`, scored by `modality_max`",
        "token_max, token_max": "trained by `token_max`, scored by `token_max`",
        "token_max, modality_max": "trained by `token_max`, scored by `modality_max`",
    },
    "context": {
        "joint, token_max": "all modalities in one sequence",
        "apart, token_max": "each alone, then joined; `token_max`",
        "apart, modality_max": "each alone, then joined; `modality_max`",
    },
    "single": {
        "joint, token_max": "all modalities in one sequence",
        **{f"apart, {m}": f"{m} alone" for m in ("video", "asr", "ocr", "description")},
        **{
            f"joint, {m} tokens": f"all in one sequence, {m} tokens scored"
            for m in ("video", "asr", "ocr", "description")
        },
    },
    "fusion": {
        "joint, token_max": "all modalities in one sequence",
        "apart, mean": "mean of the four single modalities (the paper's avg.)",
        "apart, max": "max of the four",
        "apart, rrf": "RRF of the four",
        "apart, router": "router by prototypes",
        "apart, oracle router": "router that knows the type (oracle)",
        "bm25-text": "BM25 on all text",
        "bm25-asr": "BM25 on speech",
        "bm25-ocr": "BM25 on screen text",
        "bm25-description": "BM25 on descriptions",
    },
    "losses": {
        "joint, token_max": "`contrastive`",
        "hard_positive, token_max": "`hard_positive` (Eq. 4)",
        "hard_negative, token_max": "`hard_negative` (Eq. 5)",
        "pairwise, token_max": "`pairwise`",
        "joint, modality_max": "`contrastive`; scored by `modality_max`",
        "hard_positive, modality_max": "`hard_positive`; scored by `modality_max`",
        "hard_negative, modality_max": "`hard_negative`; scored by `modality_max`",
        "pairwise, modality_max": "`pairwise`; scored by `modality_max`",
    },
}


@dataclass(frozen=True)
class Findings:
    """The figures of all runs."""

    figures: Mapping[str, Any]
    columns: Mapping[str, NDArray[np.float64]]
    kinds: NDArray[np.str_]

    @classmethod
    def read(cls) -> Findings:
        """Read the committed files."""
        table = pq.read_table(VALUES)
        names = [name for name in table.column_names if name != "query_id"]
        columns = {name: table[name].to_numpy().astype(np.float64) for name in names}
        # sample_LANGUAGE_EVENT_STYLE_TYPE_NUMBER; joint ones are called joint-ONE-OTHER.
        kinds = [id_.split("_")[-2].partition("-")[0] for id_ in table["query_id"].to_pylist()]
        figures = json.loads(FIGURES.read_text(encoding="utf-8"))
        return cls(figures, columns, np.array(kinds))

    @cached_property
    def runs(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The runs of each row, one a seed."""
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for run in self.figures["runs"]:
            rows.setdefault(run["row"], []).append(run)
        return rows

    def values(self, row: str, measure: str) -> NDArray[np.float64]:
        """Return values of each seed, shape ``(seeds, queries)``."""
        return np.stack([self.columns[f"{row}|{run['seed']}|{measure}"] for run in self.runs[row]])

    def by_type(self, row: str, kind: str) -> float:
        """Return nDCG@10 over the queries of a type, the mean of the seeds."""
        return float(np.mean([run["nDCG@10"][kind] for run in self.runs[row]]))

    def success(self, row: str, kind: str) -> float:
        """Return Success@1 over the queries of a type, the mean of the seeds."""
        return float(self.values(row, "Success@1")[:, self.kinds == kind].mean())

    def accuracy(self, row: str, kind: str = "all") -> float | None:
        """Return the modality accuracy, the mean of the seeds; None if nothing tells it.

        Where one modality alone is scored there is nothing to tell.
        """
        if not row.endswith(_SCORED):
            return None
        return float(np.mean([run["modality accuracy"][kind] for run in self.runs[row]]))


def tables(findings: Findings) -> dict[str, str]:
    """Return the tables in Markdown, by name."""
    made = {name: _table(findings, rows) for name, rows in TABLES.items()}
    return {**made, "types": _by_type(findings)}


def _table(findings: Findings, rows: Mapping[str, str]) -> str:
    baseline = findings.values(next(iter(rows)), "nDCG@10").mean(0)
    headers = ["", "nDCG@10", "seeds", "difference", "Success@1", *TYPES.values(), "accuracy"]
    lines = [_line(headers), "|---" + "|---:" * (len(headers) - 1) + "|"]
    for place, (row, label) in enumerate(rows.items()):
        ndcg = findings.values(row, "nDCG@10")
        first, by_seed = ndcg.mean(0), ndcg.mean(1)
        least, most = _percent(by_seed.min()), _percent(by_seed.max())
        cells = [
            label,
            _interval(first),
            least if len(by_seed) == 1 else f"{least}-{most}",
            "" if place == 0 else _interval(first - baseline, signed=True),
            _percent(findings.values(row, "Success@1").mean()),
        ]
        cells += [_percent(findings.by_type(row, kind)) for kind in TYPES]
        lines.append(_line([*cells, _percent(findings.accuracy(row))]))
    return "\n".join(lines)


def _by_type(findings: Findings) -> str:
    """Return Success@1 and modality accuracy of every row by type of query."""
    kinds = [*TYPES.values()]
    lines = [
        _line(["", *(f"S@1 {kind}" for kind in kinds), *(f"acc. {kind}" for kind in kinds[:-1])]),
        "|---" + "|---:" * (2 * len(kinds) - 1) + "|",
    ]
    for row in dict.fromkeys(row for rows in TABLES.values() for row in rows):
        cells = [f"`{row}`", *(_percent(findings.success(row, kind)) for kind in TYPES)]
        cells += [_percent(findings.accuracy(row, kind)) for kind in list(TYPES)[:-1]]
        lines.append(_line(cells))
    return "\n".join(lines)


def _interval(values: NDArray[np.float64], *, signed: bool = False) -> str:
    found = bootstrap_interval(values[:, None], 0)[0]
    sign = "+" if signed else ""
    return (
        f"{100 * found.mean:{sign}.1f} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page(text: str, findings: Findings) -> str:
    """Return a page with its tables made anew, each between ``<!-- NAME -->`` and ``<!-- end -->``.

    Raises
    ------
    ValueError
        If the page lacks one.
    """
    for name, table in tables(findings).items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda match, t=table: match[1] + t + "\n" + match[2], text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{PAGE} has {count} places for the table {name!r}, not one")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), Findings.read()), encoding="utf-8")
