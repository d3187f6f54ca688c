"""Against the reference implementation: tokens, vectors, scores, losses and their gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.late_interaction import TokenEmbeddings, max_sim
from harness.training.losses import contrastive
from harness.training.pairs import pair_scores
from harness.types import Document, Modality
from retrievers.preflmr.encoder import PreFLMR
from retrievers.preflmr.engine import Asked, Engine, padded
from retrievers.preflmr.pieces import Passage, Picture
from tests.preflmr_cases import (
    CHECKPOINT,
    FIXTURES,
    asked,
    documents,
    preflmr,
    queries,
    reference,
    told,
)

#: Largest difference of two values, here and there.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def encoder() -> PreFLMR:
    return preflmr(CHECKPOINT)


def pixels(name: str = "pixel_values") -> Tensor:
    return torch.from_numpy(reference()[name])


def given(engine: Engine) -> list[Asked]:
    questions = [engine.questions.read(asked(text)) for text in told()["queries"]]
    return [Asked(*each) for each in zip(questions, pixels(), strict=True)]


def written() -> list[Document]:
    return [Document(str(n), {Modality.TEXT: text}) for n, text in enumerate(told()["docs"])]


def test_tokens_and_masks_of_queries(encoder: PreFLMR) -> None:
    made = [each.question for each in given(encoder.engine)]
    for name, values in (
        ("query_input_ids", [each.ids for each in made]),
        ("query_attention_mask", [each.attended for each in made]),
        ("query_text_mask", [each.kept for each in made]),
    ):
        np.testing.assert_array_equal(np.stack(values), reference()[name], err_msg=name)
    spell = encoder.engine.questions.pieces.spell
    for each, expected in zip(made, told()["query_tokens"], strict=True):
        assert [spell(number) for number in each.ids.tolist()] == expected
    assert [each.cut for each in made] == [False, False, False, True]
    # What is said of each token leaves out masked ones, and has the image's rows first.
    for text, mask in zip(told()["queries"], reference()["query_text_mask"], strict=True):
        names = encoder.query_tokens(asked(text))
        assert len(names) == mask.sum()


def test_tokens_and_masks_of_documents(encoder: PreFLMR) -> None:
    pieces = encoder.engine.cutter._pieces
    assert sorted(pieces.punctuation()) == told()["doc_skiplist_ids"]
    ids, mask = reference()["doc_input_ids"], reference()["doc_mask"][..., 0]
    for number, (made,) in enumerate(encoder._made(written())):
        assert isinstance(made, Passage)
        assert len(made.ids) == reference()["doc_attention_mask"][number].sum()
        np.testing.assert_array_equal(made.ids, ids[number, : len(made.ids)])
        np.testing.assert_array_equal(made.kept, mask[number, : len(made.ids)])
        assert not mask[number, len(made.ids) :].any()


def test_vectors_of_queries(encoder: PreFLMR) -> None:
    with torch.inference_mode():
        vectors, kinds = padded(encoder.engine.query_rows(given(encoder.engine)))
    expected = reference()["query_late_interaction_output"]
    np.testing.assert_allclose(vectors, expected, **CLOSE)
    np.testing.assert_array_equal(kinds > 0, np.abs(expected).sum(-1) > 0)
    numbers = np.where(reference()["query_text_mask"], int(Modality.TEXT), 0)
    np.testing.assert_array_equal(kinds[:, :32], numbers)
    assert (kinds[:, 32:] == Modality.IMAGE).all()


def test_a_query_without_an_image_has_the_rows_of_its_text(encoder: PreFLMR) -> None:
    batch = [Asked(each.question) for each in given(encoder.engine)]
    with torch.inference_mode():
        vectors, _ = padded(encoder.engine.query_rows(batch))
    expected = reference()["query_text_only_late_interaction_output"]
    np.testing.assert_allclose(vectors, expected, **CLOSE)


def test_patches_see_no_more_than_the_first_tokens_of_a_longer_text() -> None:
    engine = preflmr(CHECKPOINT, query_length=44).engine
    batch = given(engine)
    ids = np.stack([each.question.ids for each in batch])
    np.testing.assert_array_equal(ids, reference()["query44_input_ids"])
    with torch.inference_mode():
        vectors, _ = padded(engine.query_rows(batch))
    expected = reference()["query44_late_interaction_output"]
    np.testing.assert_allclose(vectors, expected, **CLOSE)


def test_vectors_of_documents(encoder: PreFLMR) -> None:
    """Trimmed to their own length, and without the rows that are masked."""
    found = encoder.encode_documents(written())
    expected = reference()["doc_late_interaction_output"]
    kept = reference()["doc_mask"][..., 0]
    np.testing.assert_array_equal(np.diff(found.offsets), kept.sum(1))
    np.testing.assert_allclose(found.vectors, expected[kept], **CLOSE)


def test_vectors_of_documents_with_an_image(encoder: PreFLMR) -> None:
    spans = np.full((6, 7), np.nan, np.float32)
    made = encoder.engine.document_rows(
        [
            [Picture(Modality.IMAGE, image, spans), *passages]
            for image, passages in zip(
                pixels("doc_pixel_values"), encoder._made(written()), strict=True
            )
        ]
    )
    expected, kept = (reference()[f"doc_mm_{n}"] for n in ("late_interaction_output", "mask"))
    for number, (vectors, kinds) in enumerate(made):
        wanted = expected[number][kept[number, :, 0]]
        np.testing.assert_allclose(vectors.detach(), wanted, **CLOSE)
        assert kinds.tolist() == [Modality.IMAGE] * 6 + [Modality.TEXT] * (len(wanted) - 6)


def test_scores_of_all_pairs(encoder: PreFLMR) -> None:
    rows = encoder.engine.encode_queries(given(encoder.engine))
    vectors, kinds = padded(rows)
    queries = TokenEmbeddings.from_padded(vectors, kinds > 0, kinds)
    found = max_sim(queries, encoder.encode_documents(written()), encoder.settings.scoring)
    np.testing.assert_allclose(found.total, reference()["scores_all_pairs"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ib1", "pair1"])
def test_losses_and_their_gradients(name: str) -> None:
    """Of all documents of a batch, or of each query's own two; scores as they are."""
    encoder = preflmr(CHECKPOINT)
    engine = encoder.engine
    queries = padded(engine.query_rows(given(engine)))
    documents = padded(engine.document_rows(list(encoder._made(written()))))
    scores = pair_scores(*queries, *documents, normalise=False)
    positives = torch.arange(4) * 2
    own = torch.arange(8) // 2 == torch.arange(4)[:, None]
    pairs = scores.token_max.detach()[own].reshape(4, 2)
    np.testing.assert_allclose(pairs, reference()[f"loss/{name}/scores"], rtol=1e-5, atol=1e-5)
    allowed = torch.ones_like(own) if name == "ib1" else own
    none = torch.zeros(4, dtype=torch.int64)
    loss = contrastive(scores, positives, allowed, none, 1.0, aggregation="token_max").mean()
    np.testing.assert_allclose(loss.detach(), reference()[f"loss/{name}"], rtol=1e-5)
    loss.backward()
    checked = 0
    for tensor, parameter in engine.model.named_parameters():
        expected = reference().get(f"grad/{name}/{tensor}")
        if expected is not None:
            checked += 1
            size = float(np.abs(expected).max())
            np.testing.assert_allclose(
                parameter.grad, expected, rtol=1e-5, atol=1e-5 * max(1, size), err_msg=tensor
            )
            assert size > 1e-4, tensor
    assert checked == sum(key.startswith(f"grad/{name}/") for key in reference())


def test_the_comparison_tells_mappings_apart() -> None:
    """With the head count of the text encoder the block has the same tensors."""
    engine = preflmr(CHECKPOINT).engine
    layer = engine.model.transformer_mapping_network.layer[0]
    assert (layer.attention._heads, layer.crossattention._heads) == (6, 6)
    layer.attention._heads = layer.crossattention._heads = 4
    with torch.inference_mode():
        vectors, _ = padded(engine.query_rows(given(engine)))
    expected = reference()["query_late_interaction_output"]
    assert np.abs(vectors.numpy() - expected).max() > 0.01


def test_the_version_is_raised_when_vectors_change(encoder: PreFLMR, tmp_path: Path) -> None:
    with np.load(FIXTURES / "preflmr_version.npz") as kept:
        assert kept["version"] == PreFLMR.version
        found = encoder.encode_documents(documents(tmp_path)).vectors[::7]
        np.testing.assert_allclose(found, kept["documents"], **CLOSE)
        found = encoder.encode_queries(queries(tmp_path)).vectors[::7]
        np.testing.assert_allclose(found, kept["queries"], **CLOSE)
