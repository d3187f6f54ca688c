"""The protocols of MSR-VTT: each in two directions, none of which share a table."""

from __future__ import annotations

from dataclasses import replace

from harness.task import Protocol

#: R@k of the literature is the hit rate, `Success@k`.
MEASURES = ("Success@1", "Success@5", "Success@10", "MdR", "MnR", "nDCG@10")

_TIES = (
    "broken by video id, descending; each caption counts once (scripts that look a tied score up "
    "count a caption several times)"
)

ONE_K_A = Protocol(
    name="1k-a",
    candidates="the 1,000 videos of the JSFUSION test set",
    relevance="the video that the caption was written for; one caption a video",
    ties=_TIES,
    measures=MEASURES,
    main="Success@1",
)

FULL = Protocol(
    name="full",
    candidates="the 2,990 videos of the official test set, video7010 to video9999",
    relevance="the video that the caption was written for; 20 captions a video",
    ties=_TIES,
    measures=MEASURES,
    main="Success@1",
)

CLAMR = replace(
    ONE_K_A,
    name="clamr",
    measures=("nDCG@10", "Success@1", "Success@5", "Success@10"),
    main="nDCG@10",
)

MTEB = replace(
    ONE_K_A,
    name="mteb",
    candidates="the 879 of the 1k-A videos that the list of MTEB's copy names",
    main="nDCG@10",
)

SAMPLE = replace(
    ONE_K_A,
    name="sample",
    candidates="all videos of the split",
    relevance="the video that the caption was written for; one caption a video in test",
    query_breakdowns=("target",),
)


def turned(protocol: Protocol) -> Protocol:
    """Return the protocol in which videos ask and captions are ranked."""
    return replace(
        protocol,
        name=f"{protocol.name}-v2t",
        candidates=f"the captions of {protocol.candidates}, each by itself, equal ones too",
        relevance="the captions that were written for the video; the first of them counts for "
        "Success, MdR and MnR",
        ties="equal captions have equal scores; ties are broken by caption id, descending",
        unit="videos",
        query_breakdowns=(),
        document_breakdowns=protocol.query_breakdowns,
    )
