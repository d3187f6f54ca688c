"""What ``data stats`` shows of MultiVENT 2.0, beside the counts of every split."""

from __future__ import annotations

from collections import Counter

from harness.contamination import shared
from harness.dataset import DatasetStore
from harness.dataset.task import Statistics
from harness.task import Split
from tasks.multivent import clamr_protocol, selection
from tasks.multivent.clamr_protocol import MEASURES, REPEATED


def of_store(store: DatasetStore) -> list[Statistics]:
    """Count what the variants are made of, and what their splits share."""
    tables = []
    splits = store.manifest.splits
    if selection.TRAIN in splits:
        tables.append(
            _queries("human queries", selection.with_relevant(store.split(selection.TRAIN)))
        )
    synthetic = (selection.SYNTHETIC_TRAIN, selection.SYNTHETIC_VALIDATION)
    tables += [_queries(name, store.split(name)) for name in synthetic if name in splits]
    found = _shared(store)
    return [*tables, *([found] if found.rows else [])]


def of_rows(split: Split) -> list[Statistics]:
    """Give what ideal retrievers get under the protocol of CLaMR's script."""
    rows = clamr_protocol.judgment_rows(split.queries, split.qrels)
    copies = clamr_protocol.copies(rows)
    base = [row for row in rows if row.query.attributes.get("query_type") == "base"]
    parts = {
        "all rows": rows,
        "base rows": base,
        f"base rows of queries with up to {selection.MANY} relevant videos": [
            row for row in base if row.query.attributes[selection.RELEVANT] != "many"
        ],
    }
    lines = []
    for name, part in parts.items():
        values = clamr_protocol.ideals(part, split.qrels, copies) if part else {}
        for ideal, found in values.items():
            means = [f"{mean * 100:.2f}" for mean in found.mean(axis=0)]
            lines.append([f"{ideal}: {name}", f"{len(part):,}", *means])
    most, least = max(copies.values(), default=0), min(copies.values(), default=0)
    pool = [
        ["rows, and so candidates", f"{len(rows):,}"],
        ["distinct videos among the candidates", f"{len(copies):,}"],
        ["copies of one video", f"{least:,} to {most:,}"],
    ]
    return [
        Statistics(["protocol of CLaMR's script", ""], pool),
        Statistics(["ideal retriever, in expectation", "rows", *MEASURES], lines),
    ]


def _queries(title: str, split: Split) -> Statistics:
    """Count queries and judgments, and what repeats."""
    attribute = selection.RELEVANT
    relevant = Counter(q.attributes[attribute] for q in split.queries if attribute in q.attributes)
    texts = {query.text for query in split.queries}
    repeated = sum(len(query.attributes.get(REPEATED, "").split()) for query in split.queries)
    judgments = sum(len(row) for row in split.qrels.values())
    named = {document for row in split.qrels.values() for document in row}
    rows = [
        ["queries", f"{len(split.queries):,}"],
        *(
            [f"of these, with {name} relevant", f"{relevant[name]:,}"]
            for name in selection.HOW_MANY
            if relevant[name]
        ),
        ["of these, with the text of an earlier one", f"{len(split.queries) - len(texts):,}"],
        ["judgments", f"{judgments + repeated:,}"],
        ["of these, repeating another", f"{repeated:,}"],
        ["distinct videos named in judgments", f"{len(named):,}"],
    ]
    return Statistics([title, ""], rows)


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
