"""Whatever a user has of MultiVENT 2.0 -> a dataset store.

::

    multivent_2_<split>_ids.csv, ..._queries.csv      (``tables``)
    multivent_2_<split>_judgments.jsonl               (``judgments``)
    <split>/, features/<split>/                       (``shards``, ``archives``, ``texts``)
    *mapping*.json, frames/                           (``frames``)
    *synthetic*.json, DatasetDict folders             (``clamr_forms``)

Splits of the store: ``train`` and ``test``, and CLaMR's queries ``synthetic-train`` and
``synthetic-validation`` over the documents of ``train``. A split is there if any of its files is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from harness.dataset import DatasetWriter
from harness.errors import DataError
from harness.progress import Progress
from harness.types import Query
from tasks.multivent.archives import Gap
from tasks.multivent.clamr_forms import SYNTHETIC, ClamrForms, Judged
from tasks.multivent.clamr_protocol import REPEATED
from tasks.multivent.frames import KeyFrames
from tasks.multivent.judgments import Judgments, find_judgments, read_judgments
from tasks.multivent.layout import Videos
from tasks.multivent.shards import Shards
from tasks.multivent.tables import find_ids, find_queries, read_ids, read_queries

#: What made the texts.
CHANNELS = {"asr": "Whisper large v3, as released", "ocr": "ICDAR, as released"}


def write_multivent(sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
    """Write every split that `sources` hold.

    Parameters
    ----------
    sources
        Folders, searched in this order.
    writer
        Where the splits go; its media roots are the sources.
    progress
        Where to report.

    Raises
    ------
    DataError
        If there is no split, or a file is broken; names file, line and remedy.
    """
    sources = [source.absolute() for source in sources]
    clamr = ClamrForms(sources)
    writer.channels.update(CHANNELS)
    there = [split for split in ("train", "test") if is_there(sources, split)]
    if "train" in there or clamr.is_there:
        synthetic = {name: clamr.synthetic(name, writer.gap) for name in SYNTHETIC.values()}
        named = [v for found in synthetic.values() for row in found.qrels.values() for v in row]
        write_release(
            sources, "train", writer, progress, clamr=clamr, named=[*named, *clamr.videos()]
        )
        for name, found in synthetic.items():
            if found.queries:
                _write_synthetic(name, found, writer)
    if "test" in there:
        write_release(sources, "test", writer, progress)
    if not there and not clamr.is_there:
        raise DataError(
            f"{', '.join(map(str, sources))}: nothing of MultiVENT 2.0 is there. Give with "
            "--source a folder that holds multivent_2_train_queries.csv, multivent_2_test_ids.csv "
            "or CLaMR's synthetic queries."
        )


def is_there(sources: Sequence[Path], split: str) -> bool:
    """Whether `sources` hold anything of a split."""
    found = (find_ids(sources, split), find_queries(sources, split), find_judgments(sources, split))
    return any(found) or bool(Shards.find(sources, split).by_name)


def write_release(
    sources: Sequence[Path],
    split: str,
    writer: DatasetWriter,
    progress: Progress,
    *,
    clamr: ClamrForms | None = None,
    named: Sequence[str] = (),
) -> None:
    """Write one split of the release.

    Parameters
    ----------
    sources
        Folders, searched in this order.
    split
        ``train`` or ``test``.
    writer, progress
        Where splits and reports go.
    clamr
        CLaMR's files about videos of this split.
    named
        Videos of this split that other queries name.

    Raises
    ------
    DataError
        If a file is broken; names file, line and remedy.
    """
    sources = [source.absolute() for source in sources]
    clamr = clamr or ClamrForms([])

    def gap(kind: str, example: str) -> None:
        writer.gap(f"{split}: {kind}", example)

    ids, table = find_ids(sources, split), find_queries(sources, split)
    listed = None if ids is None else read_ids(ids)
    known = None if listed is None else frozenset(listed)
    human = clamr.human() if table is None else Judged()
    queries = list(human.queries.values()) if table is None else read_queries(table)
    if not queries:
        gap("no queries file", f"multivent_2_{split}_queries.csv")
    judgments = _judgments(sources, split, queries, known, human, gap)
    judged = [video for row in judgments.qrels.values() for video in row]
    key_frames = KeyFrames.read(sources, split, known)
    videos = Videos(
        Shards.find(sources, split),
        split,
        listed=listed,
        named=[*judged, *named],
        key_frames=key_frames,
        clamr=clamr,
        gap=gap,
    )
    with progress.stage(f"reading {split} videos", len(listed) if listed else None) as advance:
        portions = videos.portions(lambda: writer.written(split), advance)
        writer.write_split(split, portions, _with_repeated(queries, judgments), judgments.qrels)
    counts = {
        "judgment_lines": judgments.lines,
        "judgments_repeated": sum(map(len, judgments.repeated.values())),
        "judgment_lines_with_unknown_fields": judgments.more_fields,
        "key_frame_entries_of_other_videos": key_frames.others,
    }
    writer.counts |= {f"{split}_{name}": count for name, count in counts.items()}
    if human.queries:
        writer.notes.append(
            "Human queries are those of a dataset folder of CLaMR's script, which cuts them at "
            "their first comma."
        )


def _judgments(
    sources: Sequence[Path],
    split: str,
    queries: Sequence[Query],
    videos: frozenset[str] | None,
    human: Judged,
    gap: Gap,
) -> Judgments:
    path = find_judgments(sources, split)
    if path is not None and not queries:
        raise DataError(
            f"{path} judges queries, but multivent_2_{split}_queries.csv is missing: put it where "
            "the official release has it."
        )
    if path is not None:
        return read_judgments(path, {query.id for query in queries}, videos)
    if human.queries:
        qrels = {q: _listed(row, videos, gap) for q, row in human.qrels.items()}
        return Judgments(qrels, sum(map(len, qrels.values())))
    # Those of the test set are not public.
    if split != "test":
        gap("no judgments file", f"multivent_2_{split}_judgments.jsonl")
    return Judgments()


def _write_synthetic(name: str, found: Judged, writer: DatasetWriter) -> None:
    """Write synthetic queries over the documents of ``train``."""
    videos = writer.written("train")

    def gap(kind: str, example: str) -> None:
        writer.gap(f"{name}: {kind}", example)

    qrels = {query: _listed(row, videos, gap) for query, row in found.qrels.items()}
    queries = [query for query in found.queries.values() if qrels[query.id]]
    kept = {query.id: qrels[query.id] for query in queries}
    writer.write_split(name, (), queries, kept, documents_of="train")


def _listed(row: dict[str, int], videos: Collection[str] | None, gap: Gap) -> dict[str, int]:
    """Return a query's judgments without videos that are not of the split; those are gaps."""
    if videos is None:
        return row
    for video in row.keys() - videos:
        gap("queries about videos that the ids file does not list", video)
    return {video: grade for video, grade in row.items() if video in videos}


def _with_repeated(queries: Sequence[Query], judgments: Judgments) -> list[Query]:
    """Return the queries, with the videos of repeated judgments as the attribute `REPEATED`."""
    return [
        replace(query, attributes={**query.attributes, REPEATED: " ".join(videos)})
        if (videos := judgments.repeated.get(query.id))
        else query
        for query in queries
    ]
