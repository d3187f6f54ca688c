"""Scores of all pairs and their gradients, against plain loops and against the exact search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import PluginError
from harness.late_interaction import Scoring, TokenEmbeddings, max_sim
from harness.training import pairs
from harness.training.pairs import pair_scores
from harness.types import Modality

torch.set_num_threads(1)

Padded = tuple[torch.Tensor, torch.Tensor]
OPTIONS = st.fixed_dictionaries(
    {
        "normalise": st.booleans(),
        "unassigned": st.sampled_from(["exclude", "compete"]),
        "padding": st.sampled_from(["exclude", "zero"]),
    }
)


@st.composite
def padded(draw: st.DrawFn, dim: int, numbers: list[int], dtype: torch.dtype) -> Padded:
    """Items of up to 9 tokens of any modalities in any order; padding is zero vectors of 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    items, tokens = draw(st.integers(1, 5)), draw(st.integers(0, 9))
    kinds = draw(st.lists(st.sampled_from([-1, *numbers]), min_size=1, max_size=4))
    chosen = rng.choice(kinds, (items, tokens))
    if draw(st.booleans()):
        chosen[int(rng.integers(items))] = -1
    vectors = rng.standard_normal((items, tokens, dim)) + draw(st.sampled_from([0.0, 1.0, -1.0]))
    vectors[chosen == -1] = 0
    return torch.tensor(vectors, dtype=dtype), torch.tensor(np.maximum(chosen, 0))


def loops(queries: Padded, documents: Padded, options: dict[str, Any]) -> dict[int, torch.Tensor]:
    """Scores by modality number, and under -1 by all tokens, as the definition says them."""
    columns = [-1, *range(8)]
    rows: dict[int, list[torch.Tensor]] = {number: [] for number in columns}
    dtype = torch.promote_types(queries[0].dtype, documents[0].dtype)
    for asked, of_query in zip(*queries, strict=True):
        kept = asked[of_query != 0]
        for tokens, of_document in zip(*documents, strict=True):
            counts = of_document != 0
            if options["unassigned"] == "compete":
                counts = counts | (tokens != 0).any(-1)
            for number in columns:
                mine = counts if number == -1 else counts & (of_document == number)
                zero = options["padding"] == "zero" and bool(counts.any()) and number <= 0
                score = torch.zeros((), dtype=dtype)
                for vector in kept:
                    products = [vector.to(dtype) @ token.to(dtype) for token in tokens[mine]]
                    products += [torch.zeros((), dtype=dtype)] if zero else []
                    score = score + (max(products) if products else -torch.inf)
                if not mine.any() and not zero:
                    score = torch.full((), -torch.inf, dtype=dtype)
                rows[number].append(score / (max(1, len(kept)) if options["normalise"] else 1))
    shape = (len(queries[0]), len(documents[0]))
    return {number: torch.stack(found).view(shape) for number, found in rows.items()}


def compare(
    queries: Padded, documents: Padded, options: dict[str, Any], block: int | None, close: float
) -> None:
    sides = [queries[0].clone().requires_grad_(), documents[0].clone().requires_grad_()]
    found = pair_scores(sides[0], queries[1], sides[1], documents[1], block=block, **options)
    plain = [queries[0].clone().requires_grad_(), documents[0].clone().requires_grad_()]
    expected = loops((plain[0], queries[1]), (plain[1], documents[1]), options)
    by_number = {-1: found.token_max}
    by_number |= dict(zip(found.modalities, found.by_modality.unbind(-1), strict=True))
    assert list(found.modalities) == sorted(
        number for number in range(8) if (expected[number] > -torch.inf).any()
    )
    best = found.by_modality.amax(-1) if found.modalities else found.token_max
    assert torch.equal(found.modality_max, best)
    totals = [torch.zeros((), dtype=found.token_max.dtype) for _ in range(2)]
    for number, scores in by_number.items():
        torch.testing.assert_close(scores, expected[number], rtol=close, atol=close)
        weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(number + 1))
        for side, values in enumerate((scores, expected[number])):
            # Losses mask what is -inf; the gradient that reaches it is 0.
            kept = values.masked_fill(values == -torch.inf, 0)
            totals[side] = totals[side] + (kept * weights).sum()
    gradients = torch.autograd.grad(totals[0], sides)
    if not totals[1].requires_grad:
        assert all((gradient == 0).all() for gradient in gradients)
        return
    naive = torch.autograd.grad(totals[1], plain, materialize_grads=True)
    for gradient, right in zip(gradients, naive, strict=True):
        assert gradient.dtype == right.dtype
        assert gradient.isfinite().all()
        assert (gradient - right).norm() <= close * right.norm()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), OPTIONS, st.sampled_from([1, 7, 64, None]))
def test_scores_and_gradients_are_those_of_loops_in_float64(
    data: st.DataObject, dim: int, options: dict[str, Any], block: int | None
) -> None:
    queries = data.draw(padded(dim, [0, 7], torch.float64))
    documents = data.draw(padded(dim, [0, 1, 3, 4, 5], torch.float64))
    compare(queries, documents, options, block, 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 6), OPTIONS, st.sampled_from([1, 64, None]))
def test_scores_and_gradients_are_those_of_loops_in_float32(
    data: st.DataObject, dim: int, options: dict[str, Any], block: int | None
) -> None:
    queries = data.draw(padded(dim, [7], torch.float32))
    documents = data.draw(padded(dim, [0, 1, 5], torch.float32))
    compare(queries, documents, options, block, 1e-4)


@settings(max_examples=40, deadline=None)
@given(st.data(), OPTIONS)
def test_the_scores_are_those_of_the_search(data: st.DataObject, options: dict[str, Any]) -> None:
    queries = data.draw(padded(4, [7], torch.float32))
    documents = data.draw(padded(4, [0, 1, 3, 5], torch.float32))
    found = pair_scores(*queries, *documents, **options)
    packed = [
        TokenEmbeddings.from_padded(vectors, (vectors != 0).any(-1), numbers, keep_unassigned=True)
        for vectors, numbers in (queries, documents)
    ]
    for aggregation in ("token_max", "modality_max"):
        scoring = Scoring(
            aggregation,  # type: ignore[arg-type]
            normalise=options["normalise"],
            unassigned_tokens=options["unassigned"],
            padding=options["padding"],
        )
        scores = max_sim(*packed, scoring).total
        # The search knows no query without tokens.
        asked = (queries[1] != 0).any(1).numpy()
        np.testing.assert_allclose(
            getattr(found, aggregation).numpy()[asked], scores[asked], rtol=1e-5, atol=1e-5
        )


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(made, dim=-1)


def test_of_equal_tokens_the_first_gets_the_gradient() -> None:
    documents = torch.ones((1, 5, 2)).requires_grad_()
    numbers = torch.tensor([[0, 5, 5, 1, 1]])
    found = pair_scores(torch.ones(1, 1, 2), torch.tensor([[7]]), documents, numbers)
    for scores, winner in [(found.by_modality[..., 1], 1), (found.token_max, 3)]:
        (gradient,) = torch.autograd.grad(scores.sum(), documents, retain_graph=True)
        assert gradient[0].any(-1).nonzero().tolist() == [[winner]]
    (gradient,) = torch.autograd.grad(found.modality_max.sum(), documents)
    assert gradient[0].any(-1).nonzero().tolist() == [[3]]


def test_both_passes_give_the_same_bits_each_time() -> None:
    numbers = torch.arange(1200).view(4, 300) % 5 + 1
    bits = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            sides = unit(3, 20, 16).requires_grad_(), unit(4, 300, 16, seed=1).requires_grad_()
            asked = torch.full((3, 20), 7)
            scores = pair_scores(sides[0], asked, sides[1], numbers, block=1000)
            gradients = torch.autograd.grad(scores.modality_max.logsumexp(1).sum(), sides)
            bits.append((scores.token_max, scores.by_modality, *gradients))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*bits, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_halves_are_float32_under_autocast_too(dtype: torch.dtype) -> None:
    halves = unit(3, 6, 64).to(dtype).requires_grad_(), unit(4, 30, 64, seed=1).to(dtype)
    asked, numbers = torch.full((3, 6), 7), torch.arange(120).view(4, 30) % 3 + 1
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = pair_scores(halves[0], asked, halves[1], numbers)
            wide = pair_scores(halves[0].float(), asked, halves[1].float(), numbers)
        with pairs._plain_products(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.token_max.dtype == torch.float32
    exact = pair_scores(halves[0].double(), asked, halves[1].double(), numbers)
    for scores in (found, wide):
        torch.testing.assert_close(
            scores.by_modality.double(), exact.by_modality, rtol=0, atol=1e-6
        )
    (gradient,) = torch.autograd.grad(found.token_max.sum(), halves[0])
    assert gradient.dtype == dtype


def test_a_side_without_gradient_gets_none() -> None:
    numbers = torch.ones((2, 3), dtype=torch.int64)
    documents = unit(2, 3, 4, seed=1).requires_grad_()
    queries = unit(2, 3, 4)
    pair_scores(queries, numbers, documents, numbers).token_max.sum().backward()
    assert queries.grad is None
    assert documents.grad is not None


def test_a_value_that_is_not_a_number_shows() -> None:
    documents = unit(2, 3, 4, seed=1)
    documents[1, 2, 0] = torch.nan
    numbers = torch.tensor([[1, 1, 3], [1, 1, 3]])
    found = pair_scores(unit(1, 2, 4), torch.full((1, 2), 7), documents, numbers)
    assert found.token_max.isnan().tolist() == [[False, True]]
    assert found.by_modality.isnan().tolist() == [[[False, False], [False, True]]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"documents": torch.zeros(2, 3, 5)}, "queries have 4 dimensions and documents 5"),
        ({"documents": torch.zeros(2, 4)}, r"document vectors .* of shape \(2, 4\)"),
        ({"queries": torch.zeros(2, 2, 4)}, r"query vectors .* of shape \(2, 2, 4\)"),
        ({"query_modalities": torch.zeros(2, 3)}, "modality numbers torch.float32"),
        ({"document_modalities": torch.full((2, 3), 8)}, "modality number 8: give numbers"),
        ({"document_modalities": torch.full((2, 3), -100)}, "modality number -100: give numbers"),
    ],
)
def test_inputs_that_cannot_be_are_named(change: dict[str, torch.Tensor], words: str) -> None:
    numbers = torch.full((2, 3), int(Modality.ASR))
    given_ = {
        "queries": torch.zeros(2, 3, 4),
        "query_modalities": numbers,
        "documents": torch.zeros(2, 3, 4),
        "document_modalities": numbers,
    }
    with pytest.raises(PluginError, match=words):
        pair_scores(**(given_ | change))  # type: ignore[arg-type]
