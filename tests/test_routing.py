"""Routers without a network: shares of parts, names, the oracle, prototypes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness.errors import DataError, UsageError
from harness.types import Modality, Query
from harness.workspace import Workspace
from retrievers.fused.routing import Router, RouterSettings, make_router
from retrievers.fused.routing.names import read_answer
from retrievers.fused.routing.prototypes import read_examples
from retrievers.fused.routing.shares import Shares
from tests.encoders import PLUGIN, plugin

VIDEO, AUDIO, ASR, OCR, DESCRIPTION = (
    Modality.VIDEO,
    Modality.AUDIO,
    Modality.ASR,
    Modality.OCR,
    Modality.DESCRIPTION,
)
PARTS = {
    "frames": frozenset({VIDEO}),
    "speech": frozenset({ASR}),
    "screen": frozenset({OCR}),
    "both": frozenset({ASR, OCR}),
}
ADAPTER: TypeAdapter[Any] = TypeAdapter(RouterSettings)


def router(values: Any, parts: dict[str, frozenset[Modality]] = PARTS) -> Router:
    return make_router(ADAPTER.validate_python(values), list(parts), parts)


def aimed(number: int, target: str | None) -> Query:
    return Query(f"q{number}", "a text", attributes={} if target is None else {"target": target})


# --- shares ---


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3), st.frozensets(st.sampled_from(Modality)), min_size=1
    ),
    st.dictionaries(st.sampled_from(Modality), st.floats(1e-6, 1e6), min_size=1),
)
def test_weights_are_a_distribution_over_parts_that_score_what_is_wanted(
    parts: dict[str, frozenset[Modality]], wanted: dict[Modality, float]
) -> None:
    shares = Shares(list(parts), parts)
    weights = shares.of(wanted, "q")
    assert list(weights) == list(parts)
    assert min(weights.values()) >= 0
    assert sum(weights.values()) == pytest.approx(1)
    able = {label for label, own in parts.items() if own & wanted.keys()}
    if able:
        assert {label for label, weight in weights.items() if weight > 0} == able
        assert not shares.fallbacks
    else:
        assert len(set(weights.values())) == 1
        assert shares.fallbacks.total() == 1


def test_parts_of_one_modality_share_its_weight() -> None:
    shares = Shares(list(PARTS), PARTS)
    assert shares.of({ASR: 3.0, VIDEO: 1.0}, "q") == pytest.approx(
        {"frames": 0.25, "speech": 0.375, "screen": 0.0, "both": 0.375}
    )
    # What no part scores is dropped where something is left.
    assert shares.of({AUDIO: 9.0, VIDEO: 1.0}, "q")["frames"] == 1
    assert not shares.fallbacks


def test_a_modality_without_a_part_is_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    oracle = router("oracle")
    queries = [aimed(n, target) for n, target in enumerate(["audio", "audio", None, "asr"])]
    uniform = dict.fromkeys(PARTS, 0.25)
    assert oracle.route(queries)[:3] == [uniform] * 3
    assert oracle.route(queries)[:3] == [uniform] * 3
    assert oracle.fallbacks == {"no part scores audio": 4, "queries without a target": 2}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "no part scores audio (query q0)" in told[0]


# --- names ---


@pytest.mark.parametrize(
    ("answer", "modalities"),
    [
        ("speech", {ASR}),
        (" ASR\n", {ASR}),
        ("**OCR**", {OCR}),
        ('"metadata".', {DESCRIPTION}),
        ("asr, ocr", {ASR, OCR}),
        ("video + speech", {VIDEO, ASR}),
        ("The source: description", {DESCRIPTION}),
        ('{"source": "video"}', {VIDEO}),
        ('{"source": "video", "certainty": 0.9}', {VIDEO}),
        ("Speech. The video must have somebody say it.", {ASR}),
        ("It asks for words shown in the video, not for speech.\n\nAnswer: ocr", {OCR}),
        ("<think>video? no, they speak: speech</think>ocr", {OCR}),
        ("a long thought about audio and video</think>\n\ndescription", {DESCRIPTION}),
        ("I would say it is about speech here", {ASR}),
        ("", set()),
        ("none of them", set()),
        ("it may be in the video or in the speech of it", set()),
        ("videos", set()),
        ("不知道", set()),
    ],
)
def test_what_answers_decide_for(answer: str, modalities: set[Modality]) -> None:
    assert read_answer(answer) == modalities


@given(
    st.text() | st.lists(st.sampled_from(["video", "asr", ".", ":", "<think>", " "])).map("".join)
)
def test_any_answer_can_be_read(answer: str) -> None:
    assert read_answer(answer) <= frozenset(Modality)


# --- settings ---


@pytest.mark.parametrize(
    "values",
    [
        "magic",
        {},
        {"kind": "oracle", "model": "m"},
        {"kind": "prototypes", "temperature": 0},
        {"kind": "prototypes", "similarity": "median"},
        {"kind": "endpoint", "url": "http://x", "model": "m", "api_key": "k"},
        {"kind": "endpoint", "url": "http://x", "model": "m", "concurrency": 0},
    ],
)
def test_settings_of_no_kind_are_refused(values: Any) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(values)


# --- oracle ---


def test_the_oracle_gives_all_weight_to_the_target() -> None:
    oracle = router({"kind": "oracle"})
    assert oracle.oracle
    assert not oracle.untrained
    rows = oracle.route([aimed(1, "video"), aimed(2, "ocr"), aimed(3, "video+ocr")])
    assert rows[0] == {"frames": 1, "speech": 0, "screen": 0, "both": 0}
    assert rows[1] == {"frames": 0, "speech": 0, "screen": 0.5, "both": 0.5}
    assert rows[2] == {"frames": 0.5, "speech": 0, "screen": 0.25, "both": 0.25}


def test_a_target_that_is_no_modality_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'q1'.*'asr\+smell'.*'smell'"):
        router("oracle").route([aimed(1, "asr+smell")])


# --- prototypes ---

EXAMPLES = {
    "speech": ["red circle", "green star star"],
    "ocr": ["moon river stone"],
    "audio": ["x"],
}


def prototypes(
    folder: Path, parts: dict[str, frozenset[Modality]] = PARTS, **values: Any
) -> Router:
    path = folder / "examples.yaml"
    path.write_text(yaml.safe_dump(EXAMPLES))
    chosen = {"encoder": plugin(folder), "prototypes": path, **values}
    return router({"kind": "prototypes", **chosen}, parts)


def unit(folder: Path, text: str) -> np.ndarray[Any, Any]:
    """An independent reading of the plugin: the mean vector of the words, of length 1."""
    space: dict[str, Any] = {}
    exec(PLUGIN, space)  # noqa: S102 (the tests' own plugin)
    mean = space["vectors"](text).astype(float).mean(axis=0)
    return np.asarray(mean / np.sqrt((mean**2).sum()))


@pytest.mark.parametrize("similarity", ["mean", "max"])
def test_a_query_goes_where_the_most_similar_examples_belong(
    tmp_path: Path, similarity: str
) -> None:
    parts = {"s": frozenset({ASR}), "o": frozenset({OCR})}
    queries = [
        Query(str(n), text) for n, text in enumerate(["red", "the moon", "star river", "a b"])
    ]
    hard = prototypes(tmp_path, parts, similarity=similarity)
    soft = prototypes(tmp_path, parts, similarity=similarity, choice="soft", temperature=0.3)
    pool = {"mean": np.mean, "max": np.max}[similarity]
    for query, one, several in zip(queries, hard.route(queries), soft.route(queries), strict=True):
        asked = unit(tmp_path, query.text)
        near = [
            pool([float(unit(tmp_path, text) @ asked) for text in EXAMPLES[name]])
            for name in ("speech", "ocr")
        ]
        assert one == dict(zip("so", np.eye(2)[np.argmax(near)], strict=True))
        odds = np.exp(np.array(near) / 0.3)
        assert list(several.values()) == pytest.approx(odds / odds.sum(), abs=1e-6)


def test_an_example_goes_to_its_own_modality_in_any_batch(tmp_path: Path) -> None:
    made = prototypes(tmp_path, similarity="max")
    made.prepare(Workspace(tmp_path / "w" / "run", {}))
    texts = ["red circle", "moon river stone", "green star star"]
    queries = [Query(str(n), text) for n, text in enumerate(texts)]
    rows = made.route(queries)
    assert [rows[0]["speech"], rows[1]["screen"], rows[2]["speech"]] == [0.5] * 3
    assert rows == [row for query in queries for row in made.route([query])]


def test_only_what_parts_score_is_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The query is the audio example, but no part scores audio."""
    made = prototypes(tmp_path)
    assert "what part frames scores" in caplog.text
    weights = made.route([Query("q", "x")])[0]
    assert weights["frames"] == 0
    assert not made.fallbacks
    with pytest.raises(UsageError, match="are of audio, asr, ocr, but the parts score description"):
        prototypes(tmp_path, {"d": frozenset({DESCRIPTION})})


def test_a_query_without_vectors_is_for_all_parts(tmp_path: Path) -> None:
    made = prototypes(tmp_path)
    assert made.route([Query("q", "")]) == [dict.fromkeys(PARTS, 0.25)]
    assert made.fallbacks == {"queries without a vector": 1}
    assert made.route([]) == []


def test_the_identity_is_examples_and_encoder_not_their_places(tmp_path: Path) -> None:
    def identity(name: str, **values: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        found = prototypes(folder, **values).identity()
        json.dumps(found)
        return json.dumps({k: v for k, v in found.items() if k != "encoder"})

    same = identity("a")
    assert str(tmp_path) not in same
    assert identity("b") == same
    assert identity("c", temperature=0.2) == same  # a hard choice has none
    assert identity("d", similarity="max") != same
    assert identity("e", choice="soft") != identity("f", choice="soft", temperature=0.2)
    EXAMPLES["ocr"].append("one more")
    try:
        assert identity("g") != same
    finally:
        EXAMPLES["ocr"].pop()
    batch = prototypes(tmp_path, encoder_settings={"batch_size": 3}).identity()
    assert batch["encoder"]["settings"]["batch_size"] == 3


def test_a_retriever_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'random'.*without vectors"):
        prototypes(tmp_path, encoder="random")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a mapping"),
        ("- a\n- b\n", "not a mapping"),
        ("asr: [", "not YAML"),
        ("smell: [a]", "'smell'"),
        ("asr: []", "'asr' is not a list"),
        ("asr: word", "'asr' is not a list"),
        ("asr: [a, 3]", "'asr' has 3"),
        ("asr: [a, ' ']", "'asr' has ' '"),
        ("asr: [a]\nspeech: [b]", "asr twice"),
    ],
)
def test_a_damaged_file_of_examples(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "examples.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words) as raised:
        read_examples(path)
    assert str(path) in str(raised.value)


def test_a_missing_or_binary_file_of_examples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_examples(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"asr: [\xff\xfe]")
    with pytest.raises(UsageError, match="not YAML"):
        read_examples(tmp_path / "binary.yaml")


def test_the_package_has_examples_of_every_modality_of_the_paper() -> None:
    examples = read_examples(None)
    assert set(examples) == {VIDEO, AUDIO, ASR, OCR, DESCRIPTION}
    texts = [text for own in examples.values() for text in own]
    assert len(texts) == len(set(texts))
    assert min(len(own) for own in examples.values()) >= 12
