"""The protocols of the MultiVENT 2.0 variants: the rules that make their numbers comparable."""

from __future__ import annotations

from harness.task import Protocol
from tasks.multivent import clamr_protocol
from tasks.multivent.selection import RELEVANT

#: What a query id states, and how many videos are relevant.
_BREAKDOWNS = ("query_type", "language", "event", "style", RELEVANT)
_RELEVANCE = "every video judged relevant to the query id; repeated judgments count once"

CORRECTED = Protocol(
    name="corrected",
    candidates="the distinct videos that the training judgments name, with or without data",
    relevance=_RELEVANCE,
    query_breakdowns=_BREAKDOWNS,
)

POOL = Protocol(
    name="pool",
    candidates="every prepared training video; those without a judgment count as not relevant",
    relevance=_RELEVANCE,
    query_breakdowns=_BREAKDOWNS,
)

CLAMR = Protocol(
    name="clamr",
    candidates="one row a judgment: a video is as many candidates as it has judgments",
    relevance="the row's own candidate alone, not the copies of its video, nor other relevant ones",
    ties="expectation over a random order of tied candidates; documents that a ranking lacks tie "
    "in the last place; a query without any document counts 0",
    measures=clamr_protocol.MEASURES,
    main="nDCG@10 (row)",
    unit="rows",
    query_breakdowns=_BREAKDOWNS,
)

OFFICIAL = Protocol(
    name="official",
    candidates="every video of the official test set",
    relevance="official judgments: nDCG uses the grades 0 to 3, the other measures grades above 0",
    measures=("nDCG@10", "R@10", "R@100", "RR", "AP"),
    query_breakdowns=("query_type", "language", "event", "style"),
)

SYNTHETIC = Protocol(
    name="synthetic",
    candidates="the distinct videos that the split's synthetic queries were made from",
    relevance="the video that the query was made from, grade 1",
    query_breakdowns=("query_type",),
)
