"""Write benchmarks/README.md from the saved figures in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEADER = """\
# Benchmarks

Written by `make bench` from `results/`; do not edit. Each table is one run: the ways side by side,
rounds interleaved, medians. Ratios count; absolute seconds are of one shared
2-core machine. Peak memory is beyond what was held before, of each way alone.
"""


#: Columns that only some tables have: heading and format.
EXTRA = {"error": ("largest error", ".1e"), "recall": ("recall@10", ".3f")}


def report(folder: Path = HERE / "results") -> str:
    """Return the Markdown text of all saved figures."""
    parts = [HEADER]
    for path in sorted(folder.glob("*.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {saved['benchmark']}\n")
        parts.append(f"`python benchmarks/{path.stem}.py` · {_facts(saved)}\n")
        parts += [_table(table) for table in saved["tables"]]
    return "\n".join(parts)


def _facts(saved: dict[str, Any]) -> str:
    values = {**saved["settings"], **saved["environment"]}
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(table: dict[str, Any]) -> str:
    columns = {
        "way": "---",
        "seconds": "---:",
        f"x {table['baseline']}": "---:",
        "peak MiB": "---:",
    }
    extra = [name for name in EXTRA if any(row.get(name) is not None for row in table["rows"])]
    columns |= {EXTRA[name][0]: "---:" for name in extra}
    lines = [f"{table['title']}:", "", _line(columns), f"|{'|'.join(columns.values())}|"]
    for row in table["rows"]:
        cells = [row["name"], f"{row['median_s']:.3f}", f"{row['ratio']:.2f}"]
        cells.append(f"{row['peak_mib']:.0f}")
        cells += [
            "" if row.get(name) is None else format(row[name], EXTRA[name][1]) for name in extra
        ]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    (HERE / "README.md").write_text(report(), encoding="utf-8")
