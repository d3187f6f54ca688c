"""The compat setting against what the reference implementation gave: ids, vectors, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.late_interaction import max_sim
from retrievers.clamr.encoder import Clamr
from retrievers.qwen.sequence import Tokens
from tests.clamr_cases import (
    ADAPTER,
    OMNI,
    REFERENCE_NUMBERS,
    VL,
    clamr,
    documents,
    expected,
    queries,
)
from tests.fixtures.clamr_make import STRIDE

CASES: dict[str, tuple[Path, dict[str, Any]]] = {
    "vl_base": (VL, {}),
    "vl_adapter": (ADAPTER, {"base": str(VL)}),
    "vl_separate": (VL, {"contextualise": False}),
    "omni_base": (OMNI, {}),
    "omni_role_fixed": (OMNI, {}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, Clamr]:
    weights, settings = CASES[request.param]
    encoder = clamr(weights, compat=True, **settings)
    if request.param == "omni_role_fixed":
        encoder.engine.prompt.role = "user"  # type: ignore[attr-defined]
    return request.param, encoder


def joined(sequences: list[Tokens], name: str) -> Any:
    return np.concatenate([getattr(tokens, name) for tokens in sequences])


def test_tokens_vectors_and_scores_are_the_references(
    case: tuple[str, Clamr], tmp_path: Path
) -> None:
    name, encoder = case
    engine, reference, stride = encoder.engine, expected(name), STRIDE[name]
    collection = documents(tmp_path)
    for number, content in enumerate(encoder._contents(collection)):
        sequences = engine.prompt.document(content)
        numbers = REFERENCE_NUMBERS[joined(sequences, "modalities")]
        np.testing.assert_array_equal(numbers, reference[f"modalities_{number}"])
        if f"document_ids_{number}" in reference:
            ids = joined(sequences, "ids")
            np.testing.assert_array_equal(ids, reference[f"document_ids_{number}"])
        vectors = np.concatenate(engine.encode(sequences))[::stride]
        np.testing.assert_allclose(vectors, reference[f"document_{number}"], rtol=0, atol=1e-5)
    for number, query in enumerate(queries()):
        asked = engine.prompt.query(query.text)
        if f"query_ids_{number}" in reference:
            np.testing.assert_array_equal(asked.ids, reference[f"query_ids_{number}"])
        vectors = engine.encode([asked])[0][::stride]
        np.testing.assert_allclose(vectors, reference[f"query_{number}"], rtol=0, atol=1e-5)

    asked_all = encoder.encode_queries(queries())
    found = encoder.encode_documents(collection)
    for aggregation in ("token_max", "modality_max"):
        settings = encoder.settings.model_copy(update={"aggregation": aggregation})
        scores = max_sim(asked_all, found, settings.scoring).total
        np.testing.assert_allclose(scores, reference[f"sim_{aggregation}"], rtol=1e-5, atol=1e-4)


def test_compat_lets_padding_and_the_prompt_compete_unless_told_otherwise() -> None:
    assert clamr("tiny", compat=True).settings.scoring.padding == "zero"
    assert clamr("tiny", compat=True).settings.scoring.unassigned_tokens == "compete"
    assert clamr("tiny", compat=True, padding="exclude").settings.scoring.padding == "exclude"
    assert clamr("tiny").settings.scoring.padding == "exclude"
    assert clamr("tiny").settings.scoring.unassigned_tokens == "exclude"


def test_the_default_differs_from_the_reference_in_labels_alone(tmp_path: Path) -> None:
    """For Qwen2.5-VL the token stream, hence every vector, is the same; the drift is gone."""
    encoder, reference = clamr(VL), expected("vl_base")
    contents = list(encoder._contents(documents(tmp_path)))
    sequences = [encoder.engine.prompt.document(content)[0] for content in contents]
    for number, (tokens, vectors) in enumerate(
        zip(sequences, encoder.engine.encode(sequences), strict=True)
    ):
        np.testing.assert_array_equal(tokens.ids, reference[f"document_ids_{number}"])
        np.testing.assert_allclose(vectors, reference[f"document_{number}"], rtol=0, atol=1e-5)
        drifted = reference[f"modalities_{number}"]
        assert (REFERENCE_NUMBERS[tokens.modalities] != drifted).any()
        assert (tokens.modalities[-2:] == 0).all()
        assert (drifted[-2:] == 4).all()
