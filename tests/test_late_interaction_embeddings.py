"""Token embeddings: made, packed, cut, joined and kept in other precisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.late_interaction import NonFiniteError, Precision, TokenEmbeddings
from harness.types import NO_MODALITY, Modality
from tests.late_interaction_cases import PRECISIONS, corpus


def test_helper_groups_by_modality_and_keeps_halves() -> None:
    half = np.ones((2, 3), np.float16)
    made = TokenEmbeddings.of([{Modality.OCR: half, Modality.ASR: half[:1]}, {}])
    assert made.precision is Precision.FP16
    assert made.offsets.tolist() == [0, 3, 3]
    assert made.modalities.tolist() == [int(Modality.ASR), int(Modality.OCR)]
    assert made.segment_offsets.tolist() == [0, 1, 3]
    assert made.item_segments.tolist() == [0, 2, 2]
    mixed = TokenEmbeddings.of([{Modality.OCR: half, Modality.ASR: np.ones((1, 3))}])
    assert mixed.vectors.dtype == np.float32
    joined = TokenEmbeddings.concatenate([made, made])
    assert joined.offsets.tolist() == [0, 3, 3, 6, 6]
    assert joined.segment_offsets.tolist() == [0, 1, 3, 4, 6]
    assert len(TokenEmbeddings.of([{}, {}])) == 2


def test_helper_names_the_item_of_another_dimension() -> None:
    with pytest.raises(PluginError, match=r"item 1 has vectors of shape \(1, 3\) for ocr"):
        TokenEmbeddings.of([{Modality.ASR: np.ones((1, 2))}, {Modality.OCR: np.ones((1, 3))}])


@st.composite
def padded(draw: st.DrawFn) -> dict[str, Any]:
    batch, length, dim = draw(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return {
        "vectors": rng.standard_normal((batch, length, dim), dtype=np.float32),
        "mask": rng.integers(0, 2, (batch, length)),
        "modality_ids": rng.integers(0, 8, (batch, length)),
        "spans": rng.random((batch, length, 7), dtype=np.float32),
        "keep_unassigned": draw(st.booleans()),
    }


@settings(max_examples=150, deadline=None)
@given(padded(), st.booleans())
def test_a_padded_batch_is_packed_as_by_loops(case: dict[str, Any], tensors: bool) -> None:
    given_ = dict(case)
    if tensors:
        torch = pytest.importorskip("torch")
        for name in ("vectors", "mask", "modality_ids"):
            given_[name] = torch.from_numpy(case[name])
        given_["vectors"] = given_["vectors"].to(torch.bfloat16).requires_grad_()
    made = TokenEmbeddings.from_padded(**given_)
    assert made.precision is (Precision.BF16 if tensors else Precision.FP32)
    assert len(made) == len(case["vectors"]) or not case["vectors"].shape[1]
    row = segment = 0
    wide = made.widen(0, len(made.vectors))
    assert made.spans is not None
    for i in range(len(case["vectors"])):
        for number in range(NO_MODALITY if case["keep_unassigned"] else 1, 8):
            places = [
                t
                for t in range(case["mask"].shape[1])
                if case["mask"][i, t] and case["modality_ids"][i, t] == number
            ]
            if not places:
                continue
            assert made.modalities[segment] == number
            for t in places:
                assert np.allclose(wide[row], case["vectors"][i, t], rtol=2**-8)
                assert (made.spans[row] == case["spans"][i, t]).all()
                row += 1
            segment += 1
            assert made.segment_offsets[segment] == row
        assert made.offsets[i + 1] == row
    assert (row, segment) == (len(made.vectors), len(made.modalities))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mask": np.ones((2, 4))}, r"a mask of \(2, 4\)"),
        ({"vectors": np.ones((2, 3))}, r"vectors of shape \(2, 3\)"),
        ({"vectors": np.ones((2, 3, 4), np.int32)}, "int32: give a floating type"),
        ({"modality_ids": np.ones((2, 3))}, "modality numbers, float64"),
        ({"modality_ids": np.full((2, 3), 9)}, "token 0 of item 0 .* the modality number 9"),
        ({"modality_ids": np.full((2, 3), -1)}, "the modality number -1"),
        ({"spans": np.ones((2, 4, 7), np.float32)}, r"spans of \(2, 4, 7\)"),
        ({"spans": np.ones((2, 3, 5), np.float32)}, r"spans are float32 of shape \(6, 5\)"),
        ({"vectors": np.full((2, 3, 4), np.nan)}, r"vector 0 \(of item 0, video\) has NaN"),
    ],
)
def test_a_padded_batch_that_does_not_fit_is_refused(values: dict[str, Any], says: str) -> None:
    good = {
        "vectors": np.ones((2, 3, 4), np.float32),
        "mask": np.ones((2, 3)),
        "modality_ids": np.ones((2, 3), int),
    }
    TokenEmbeddings.from_padded(**good)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=says):
        TokenEmbeddings.from_padded(**good | values)


finite = st.floats(-6e4, 6e4, width=32)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 5)), elements=finite))
def test_precisions_keep_values_within_their_steps(values: NDArray[np.float32]) -> None:
    made = TokenEmbeddings.of([{Modality.ASR: values}])
    steps = {Precision.FP16: 2.0**-11, Precision.BF16: 2.0**-8, Precision.FP32: 0.0}
    for precision, step in steps.items():
        kept = made.astype(precision)
        assert kept.precision is precision
        wide = kept.widen(0, len(values))
        smallest = {Precision.FP16: 2.0**-25, Precision.BF16: 2.0**-134}.get(precision, 0.0)
        assert (np.abs(wide - values) <= np.maximum(step * np.abs(values), smallest)).all()
        assert (kept.astype(Precision.FP32).vectors == wide).all()
    half = made.astype(Precision.FP16)
    assert (half.widen(0, len(values)) == half.vectors.astype(np.float32)).all()
    small = made.astype(Precision.INT8)
    assert small.scales is not None
    largest = np.abs(values).max(axis=1, initial=0)[:, None]
    error = np.abs(small.widen(0, len(values)).astype(np.float64) - values)
    assert (error <= largest / 127 * 0.5001 + 1e-43).all()


def test_every_half_is_widened_exactly() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 2)
    made = TokenEmbeddings.of([{Modality.ASR: halves}])
    wide = made.widen(0, len(halves))
    assert wide.tobytes() == halves.astype(np.float32).tobytes()


@pytest.mark.parametrize(("precision", "value"), [("fp16", 65520.0), ("bf16", 3.4e38)])
def test_what_a_half_cannot_hold_is_refused(precision: str, value: float) -> None:
    made = TokenEmbeddings.of([{Modality.ASR: np.array([[1], [value]], np.float32)}])
    with pytest.raises(PluginError, match=f"vector 1 has a value of .* too large for {precision}"):
        made.astype(Precision(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cut_and_joined_items_are_the_same(precision: Precision) -> None:
    whole = corpus(12, 8, 4, 3).astype(precision)
    spans = np.random.default_rng(0).random((len(whole.vectors), 7), dtype=np.float32)
    arrays = (whole.vectors, whole.offsets, whole.modalities, whole.segment_offsets)
    whole = TokenEmbeddings(*arrays, whole.scales, spans)
    part = whole[3:7]
    assert np.shares_memory(part.vectors, whole.vectors)
    assert len(part) == 4
    assert len(whole[9:2]) == 0
    joined = TokenEmbeddings.concatenate([whole[:3], part, whole[7:7], whole[7:]])
    for name in TokenEmbeddings.__slots__:
        expected, found = getattr(whole, name), getattr(joined, name)
        assert expected is found is None or (expected == found).all()
    with pytest.raises(IndexError, match="steps of 1, not 2"):
        whole[::2]


def test_joined_parts_of_other_kinds() -> None:
    whole = corpus(6, 8, 4, 3)
    spans = np.zeros((len(whole.vectors), 7), np.float32)
    arrays = (whole.vectors, whole.offsets, whole.modalities, whole.segment_offsets)
    joined = TokenEmbeddings.concatenate(
        [whole.astype(Precision.FP16), TokenEmbeddings(*arrays, None, spans)]
    )
    assert joined.precision is Precision.FP32
    assert joined.spans is not None
    assert np.isnan(joined.spans[: len(spans)]).all()
    assert not joined.spans[len(spans) :].any()
    other = TokenEmbeddings.of([{Modality.TEXT: np.ones((1, 3), np.float32)}])
    with pytest.raises(PluginError, match=r"dimensions differ between batches: \[3, 8\]"):
        TokenEmbeddings.concatenate([whole, other])


GOOD: dict[str, NDArray[Any]] = {
    "vectors": np.ones((3, 2), np.float32),
    "offsets": np.array([0, 2, 3]),
    "modalities": np.array([3, 4, 3], np.uint8),
    "segment_offsets": np.array([0, 1, 2, 3]),
}
INT8 = {"vectors": np.ones((3, 2), np.int8), "scales": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"vectors": np.ones((3, 2))}, "float64 of shape"),
        ({"vectors": np.ones((3, 2, 1), np.float32)}, "of shape"),
        ({"vectors": np.array([[1, 1], [1, np.nan], [1, 1]], np.float32)}, "of item 0, ocr"),
        ({"vectors": np.array([[1, 1], [1, 1], [-np.inf, 1]], np.float16)}, "of item 1, asr"),
        ({"vectors": np.array([[1, 1], [1, 1], [1, 0x7FC0]], np.uint16)}, r"vector 2 \(of item 1"),
        ({"vectors": np.ones((3, 2), np.int8)}, "int8 without scales"),
        ({"scales": np.ones(3, np.float32)}, "float32 with scales"),
        (INT8 | {"scales": np.ones(3)}, "scales are float64"),
        (INT8 | {"scales": np.ones(2, np.float32)}, r"of shape \(2,\) for 3 vectors"),
        (INT8 | {"scales": np.array([1, np.inf, 1], np.float32)}, "not finite"),
        (INT8 | {"scales": np.array([1, -1, 1], np.float32)}, "negative"),
        ({"spans": np.zeros((3, 4), np.float32)}, r"spans are float32 of shape \(3, 4\)"),
        ({"offsets": np.array([0, 3, 2, 3])}, "out of order"),
        ({"offsets": np.array([1, 3])}, "from 1 to 3"),
        ({"offsets": np.array([0, 2])}, "from 0 to 2 for 3 vectors"),
        ({"offsets": np.array([0.0, 3.0])}, "float64"),
        ({"segment_offsets": np.array([0, 1, 1, 3])}, "rise strictly"),
        ({"segment_offsets": np.array([0, 1, 3])}, "2 segments"),
        ({"modalities": np.array([3, 3, 3], np.uint8)}, "item 0 has modality 3 twice"),
        ({"modalities": np.array([3, 99, 3], np.uint8)}, "up to 99"),
        ({"modalities": np.array([3, 4, 3])}, "int64"),
        (
            {"segment_offsets": np.array([0, 3]), "modalities": np.array([3], np.uint8)},
            "item offset 2 lies inside a segment",
        ),
    ],
)
def test_broken_embeddings_are_refused(values: dict[str, Any], says: str) -> None:
    TokenEmbeddings(**GOOD)
    TokenEmbeddings(**GOOD | INT8)
    with pytest.raises(PluginError, match=says):
        TokenEmbeddings(**GOOD | values)


def test_the_item_and_modality_of_a_vector_that_is_not_finite_are_told() -> None:
    vectors = np.ones((3, 2), np.float32)
    vectors[2] = np.nan
    with pytest.raises(NonFiniteError) as error:
        TokenEmbeddings(**GOOD | {"vectors": vectors, "modalities": np.array([3, 4, 0], np.uint8)})
    assert (error.value.item, error.value.modality) == (1, NO_MODALITY)
    assert "no modality" in str(error.value)
