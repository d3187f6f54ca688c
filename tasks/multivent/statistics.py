"""What ``data stats`` shows of MultiVENT 2.0, beside the counts of every split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.contamination import normalised, shared
from harness.dataset import DatasetStore
from harness.dataset.task import Statistics
from harness.task import Split
from tasks.multivent import clamr_protocol, selection
from tasks.multivent.clamr_protocol import MEASURES, REPEATED, Row

_HUMAN = ("query_type", "language", "event", "style", selection.RELEVANT)
_SYNTHETIC = ("query_type", "target", "label")


def of_store(store: DatasetStore) -> list[Statistics]:
    """Count what the variants are made of, and what their splits share."""
    tables = []
    splits = store.manifest.splits
    if selection.TRAIN in splits:
        human = selection.pool(store)
        tables += [_queries("human queries", human), _labels("human queries", human, _HUMAN)]
    for name in (selection.SYNTHETIC_TRAIN, selection.SYNTHETIC_VALIDATION):
        if name in splits:
            split = store.split(name)
            tables += [_queries(name, split), _labels(name, split, _SYNTHETIC)]
    found = _shared(store)
    return [*tables, *([found] if found.rows else [])]


def of_rows(split: Split) -> list[Statistics]:
    """Give what ideal retrievers get under the protocol of CLaMR's script."""
    rows = clamr_protocol.judgment_rows(split.queries, split.qrels)
    base = [row for row in rows if row.query.attributes.get("query_type") == "base"]
    rest = [row for row in base if row.query.attributes[selection.RELEVANT] != "many"]
    parts = {
        "all rows": rows,
        "base rows": base,
        "base rows of queries with up to 10 relevant videos": rest,
    }
    lines = [line for name, part in parts.items() if part for line in _ideals(name, part, split)]
    copies = clamr_protocol.copies(rows)
    pool = [
        ["rows, and so candidates", f"{len(rows):,}"],
        ["distinct videos among the candidates", f"{len(copies):,}"],
        ["copies of a video", f"{min(copies.values()):,} to {max(copies.values()):,}"]
        if copies
        else ["copies of a video", "0"],
    ]
    return [
        Statistics(["protocol of CLaMR's script", ""], pool),
        Statistics(["ideal retriever, in expectation", "over", "rows", *MEASURES], lines),
    ]


def _ideals(name: str, part: Sequence[Row], split: Split) -> list[list[str]]:
    rows = clamr_protocol.judgment_rows(split.queries, split.qrels)
    values = clamr_protocol.ideals(part, split.qrels, clamr_protocol.copies(rows))
    return [
        [ideal, name, f"{len(part):,}", *(f"{mean * 100:.2f}" for mean in found.mean(axis=0))]
        for ideal, found in values.items()
    ]


def _queries(title: str, split: Split) -> Statistics:
    """Count queries and judgments, and what repeats."""
    texts = {normalised(query.text) for query in split.queries}
    repeated = sum(len(query.attributes.get(REPEATED, "").split()) for query in split.queries)
    judgments = sum(len(row) for row in split.qrels.values())
    named = {document for row in split.qrels.values() for document in row}
    rows = [
        ["queries", f"{len(split.queries):,}"],
        ["of these, with the text of an earlier one", f"{len(split.queries) - len(texts):,}"],
        ["judgments", f"{judgments + repeated:,}"],
        ["of these, repeating another", f"{repeated:,}"],
        ["distinct videos named in judgments", f"{len(named):,}"],
    ]
    return Statistics([title, ""], rows)


def _labels(title: str, split: Split, attributes: Sequence[str]) -> Statistics:
    """Count queries by the values of their attributes."""
    rows = []
    for attribute in attributes:
        counts = Counter(
            query.attributes[attribute] for query in split.queries if attribute in query.attributes
        )
        rows += [[f"{attribute}: {value}", f"{n:,}"] for value, n in sorted(counts.items())]
    return Statistics([f"{title} by attribute", "queries"], rows)


def _shared(store: DatasetStore) -> Statistics:
    """Count what the training splits share with each evaluated one."""
    rows = []
    for train in (selection.SYNTHETIC_TRAIN, selection.SYNTHETIC_VALIDATION):
        for other in (selection.TRAIN, selection.SYNTHETIC_VALIDATION, selection.TEST):
            if train != other and {train, other} <= store.manifest.splits.keys():
                found = shared(store.split(train), store.split(other))
                name = "human queries" if other == selection.TRAIN else other
                rows.append(
                    [f"{train} and {name}", f"{len(found.documents):,}", f"{len(found.queries):,}"]
                )
    return Statistics(["shared by (dropped from training)", "videos", "query texts"], rows)
