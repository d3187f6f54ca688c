"""The losses against their formulas and against what the reference implementation gave."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.late_interaction import TokenEmbeddings
from harness.training.losses import LOSSES, countable
from harness.training.pairs import PairScores, pair_scores
from harness.types import Modality
from tests.clamr_cases import (
    FIXTURES,
    clamr,
    documents,
    expected,
    queries,
)
from tests.test_clamr_parity import CASES

AGGREGATIONS = ("token_max", "modality_max")


@cache
def reference() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FIXTURES / "clamr_losses.json").read_text("utf-8"))
    return made


def check_parity(
    case: str, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], close: float
) -> None:
    targets = torch.tensor([Modality.parse(name) for name in reference()["targets"]])
    everything = torch.ones((6, 6), dtype=torch.bool)
    for kind in ("norm", "raw"):
        scores = pair_scores(
            *inputs, normalise=kind == "norm", unassigned="compete", padding="zero"
        )
        for name, loss in LOSSES.items():
            for aggregation in AGGREGATIONS:
                found = loss(
                    scores,
                    torch.arange(6),
                    everything,
                    targets,
                    0.02,
                    aggregation=aggregation,  # type: ignore[arg-type]
                    compat=True,
                )
                right = reference()["losses"][case][f"{name} {aggregation} {kind}"]
                assert found.mean().item() == pytest.approx(right, rel=close), (name, aggregation)


def test_compat_gives_the_references_losses_of_its_embeddings() -> None:
    saved = expected("vl_scores")
    inputs = (
        torch.tensor(saved["query_embeddings"]),
        torch.tensor(saved["query_attention_mask"] * int(Modality.TEXT)),
        torch.tensor(saved["doc_embeddings"]),
        torch.tensor(saved["doc_modality_numbers"]),
    )
    check_parity("vl_base", inputs, 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_compat_gives_the_references_losses_of_its_inputs(case: str, tmp_path: Any) -> None:
    weights, options = CASES[case]
    encoder = clamr(weights, compat=True, **options)
    if case == "omni_role_fixed":
        encoder.engine.prompt.role = "user"  # type: ignore[attr-defined]
    asked = batch(encoder.encode_queries(queries()))
    found = batch(encoder.encode_documents(documents(tmp_path)))
    text = torch.full(asked[1].shape, int(Modality.TEXT)) * (asked[0] != 0).any(-1)
    check_parity(case, (asked[0], text, *found), 1e-4)


def batch(embeddings: TokenEmbeddings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a padded batch, as models give it."""
    numbers = np.repeat(embeddings.modalities, np.diff(embeddings.segment_offsets))
    cuts = embeddings.offsets[1:-1]
    pad = torch.nn.utils.rnn.pad_sequence
    return tuple(  # type: ignore[return-value]
        pad([torch.tensor(part) for part in np.split(whole, cuts)], batch_first=True)
        for whole in (embeddings.widen(0, len(embeddings.vectors)), numbers.astype(np.int64))
    )


NUMBERS = (0, 1, 3, 5)


@st.composite
def scored(draw: st.DrawFn) -> tuple[PairScores, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores in float64, of documents that lack modalities, or all; positives, allowed, targets."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    asked, held = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    apart = rng.standard_normal((asked, held, len(NUMBERS)))
    apart[:, rng.random((held, len(NUMBERS))) < draw(st.sampled_from([0, 0.4, 0.9]))] = -np.inf
    total = apart.max(-1) + rng.random((asked, held))
    scores = PairScores(
        torch.tensor(total).requires_grad_(), torch.tensor(apart).requires_grad_(), NUMBERS
    )
    return (
        scores,
        torch.tensor(rng.integers(held, size=asked)),
        torch.tensor(rng.random((asked, held)) < draw(st.sampled_from([0.2, 0.7, 1]))),
        torch.tensor(rng.choice([*NUMBERS, 7], asked)),
    )


def formula(
    name: str, made: tuple[Any, ...], query: int, tau: float, aggregation: str, compat: bool
) -> float:
    """The loss of one query as the paper or the released code says it."""
    scores, positives, allowed, targets = made
    apart = scores.by_modality.tolist()[query]
    whole = scores.token_max.tolist()[query]
    best = [max(row) for row in apart]
    whole = best if aggregation == "modality_max" else whole
    own = int(positives[query])
    if whole[own] == -math.inf:
        return 0.0
    others = [j for j in range(len(whole)) if j != own and allowed[query, j]]
    others = [j for j in others if whole[j] > -math.inf]
    label = int(targets[query])
    named = label != 0 and label in NUMBERS
    known = named and apart[own][NUMBERS.index(label)] > -math.inf
    aimed = apart[own][NUMBERS.index(label)] if known else best[own]
    negatives = [whole[j] for j in others]
    positive = whole[own]
    if name == "pairwise":
        margin = (max(negatives) - positive) / (1 if compat else tau) if negatives else -math.inf
        return float(np.logaddexp(0, margin))
    if name == "hard_positive" or (name == "hard_negative" and not compat):
        positive = aimed
    if name == "hard_negative":
        negatives += [apart[j][m] for j in others for m in range(1, len(NUMBERS))]
        if known:
            negatives += [apart[own][m] for m in range(1, len(NUMBERS)) if NUMBERS[m] != label]
    logits = np.array([positive, *negatives]) / tau
    return float(np.logaddexp.reduce(logits) - logits[0])


@settings(max_examples=150, deadline=None)
@given(
    scored(),
    st.sampled_from(list(LOSSES)),
    st.sampled_from(AGGREGATIONS),
    st.booleans(),
    st.sampled_from([0.02, 1.0]),
)
def test_losses_are_their_formulas_and_never_nan(
    made: tuple[Any, ...], name: str, aggregation: Any, compat: bool, tau: float
) -> None:
    scores, positives, _, _ = made
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    found = LOSSES[name](*made, temperature, aggregation=aggregation, compat=compat)
    right = [
        formula(name, made, query, tau, aggregation, compat) for query in range(len(positives))
    ]
    assert found.tolist() == pytest.approx(right, rel=1e-9, abs=1e-9)
    assert found.isfinite().all()

    sides = scores.token_max, scores.by_modality, temperature
    gradients = torch.autograd.grad(found.sum(), sides, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    for values, gradient in zip(sides[:2], gradients[:2], strict=True):
        assert (gradient[values == -torch.inf] == 0).all()
    counted = countable(scores, positives)
    own = scores.by_modality[torch.arange(len(positives)), positives]
    assert counted.tolist() == (own > -torch.inf).any(1).tolist()
    assert (found[~counted] == 0).all()
    assert (gradients[1][~counted] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_right_for_the_temperature_too(name: str) -> None:
    rng = np.random.default_rng(5)
    apart = torch.tensor(rng.standard_normal((3, 4, 4)), requires_grad=True)
    total = torch.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    rest = torch.tensor([0, 3, 1]), torch.ones((3, 4), dtype=torch.bool), torch.tensor([3, 5, 0])
    for aggregation in AGGREGATIONS:

        def value(
            total: torch.Tensor, apart: torch.Tensor, tau: torch.Tensor, kind: Any = aggregation
        ) -> torch.Tensor:
            scores = PairScores(total, apart, NUMBERS)
            return LOSSES[name](scores, *rest, tau, aggregation=kind)

        assert torch.autograd.gradcheck(value, (total, apart, temperature))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_token_has_a_loss_of_zero_with_a_backward_pass(name: str) -> None:
    documents_ = torch.zeros((2, 3, 4), requires_grad=True)
    nothing = torch.zeros((2, 3), dtype=torch.int64)
    scores = pair_scores(torch.ones(2, 3, 4), nothing + 7, documents_, nothing)
    positives = torch.tensor([0, 1])
    found = LOSSES[name](scores, positives, torch.ones((2, 2), dtype=torch.bool), positives, 0.02)
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert not countable(scores, positives).any()
    assert documents_.grad is not None
    assert (documents_.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_score_that_is_not_a_number_shows_in_the_loss(name: str) -> None:
    apart = torch.tensor([[[0.5, 0.1], [torch.nan, 0.3]], [[0.5, 0.1], [0.4, 0.3]]])
    scores = PairScores(apart.amax(-1), apart, (1, 3))
    positives = torch.tensor([0, 1])
    for aggregation in AGGREGATIONS:
        found = LOSSES[name](
            scores,
            positives,
            torch.ones((2, 2), dtype=torch.bool),
            torch.tensor([1, 3]),
            0.02,
            aggregation=aggregation,  # type: ignore[arg-type]
        )
        assert found.isnan().tolist() == [True, False]
