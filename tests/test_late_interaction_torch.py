"""The torch engine, on the processor, against the numpy engine."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.late_interaction import Precision, Scoring, max_sim
from harness.types import NO_MODALITY, Modality
from tests.late_interaction_cases import PRECISIONS, collections, embed, scorings, unit

torch = pytest.importorskip("torch")
tensors = pytest.importorskip("harness.late_interaction.tensors")


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 7), scorings, st.sampled_from(PRECISIONS))
def test_torch_gives_the_scores_of_numpy(
    data: st.DataObject, dim: int, scoring: Scoring, precision: Precision
) -> None:
    numbers = [NO_MODALITY, *map(int, Modality)]
    queries = embed(data.draw(collections([int(Modality.TEXT)], dim)), dim, precision)
    documents = embed(data.draw(collections(numbers, dim)), dim, precision)
    expected = max_sim(queries, documents, scoring, by_modality=True)
    found = max_sim(queries, documents, scoring, by_modality=True, device="torch:cpu")
    assert found.by_modality is not None
    assert expected.by_modality is not None
    close = {"rtol": 1e-5, "atol": 1e-4}
    assert np.allclose(found.total, expected.total, **close)
    assert np.allclose(found.by_modality, expected.by_modality, **close)


def test_documents_longer_than_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_TOKENS", 16)
    queries = embed([{7: unit(5, 8, 1)}, {7: unit(3, 8, 2)}], 8)
    documents = embed([{1: unit(16, 8, 4), 3: unit(45, 8, 5)}, {}, {4: unit(7, 8, 6)}], 8)
    found = max_sim(queries, documents, device="torch:cpu").total
    assert np.allclose(found, max_sim(queries, documents).total, rtol=1e-5)


def test_products_are_float32_whatever_the_process_allows() -> None:
    documents = embed([{7: unit(5, 8, 1)}], 8)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with tensors._plain_float32:
            assert torch.get_float32_matmul_precision() == "highest"
        max_sim(documents, documents, device="torch:cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["cuda:77", "quantum", "torch:quantum"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    one = embed([{7: unit(1, 8, 1)}], 8)
    with pytest.raises(UsageError, match=f"no device '{device}'"):
        max_sim(one, one, device=device)


def test_without_torch_there_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    one = embed([{7: unit(1, 8, 1)}], 8)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="device 'cuda' needs torch"):
        max_sim(one, one, device="cuda")
    assert max_sim(one, one).total.item() == pytest.approx(1)
