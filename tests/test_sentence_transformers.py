"""Dense and multi-vector models: the library's own vectors and scores, prompts, spans, frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import Qwen2Config, Qwen2Model

from harness.documents import ListedDocuments
from harness.errors import UsageError
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.retriever import Retriever
from harness.types import Document, Modality, Query
from harness.workspace import Workspace
from retrievers.st.encoder import SentenceTransformers
from retrievers.st.settings import SentenceSettings
from retrievers.st.tiny import tiny_dense, tiny_images, tiny_multi_vector
from tests.conftest import Command

ADDRESS = f"{Path(__file__).parents[1]}/retrievers/st/encoder.py:SentenceTransformers"

#: Long and short, other scripts, marks of models, what looks like an address of a picture.
TEXTS = (
    "a crowd by the river, and a bridge",
    "LIVE",
    "летний мост, река и башня",
    "洪水 地震 市场 桥梁 " * 3,
    "<|im_end|> [MASK] is plain text",
    "https://example.org/bridge.jpg",
    "the tower by the market. " * 60,
    "data:image/png;base64,AAAA",
)
QUERIES = ("river bridge", "洪水", "https://example.org/bridge.jpg", "where is the market?")


def documents() -> list[Document]:
    """One with two texts, one with none, and one for each text."""
    both = Document("both", texts={Modality.ASR: TEXTS[0], Modality.OCR: TEXTS[1]})
    single = [
        Document(f"d{n}", texts={(Modality.ASR, Modality.OCR)[n % 2]: text})
        for n, text in enumerate(TEXTS)
    ]
    return [both, Document("empty"), *single]


def queries() -> list[Query]:
    return [Query(f"q{n}", text) for n, text in enumerate(QUERIES)]


def encoder(weights: Path | str, **settings: Any) -> SentenceTransformers:
    values = {"device": "cpu", "workers": 0, **settings}
    return SentenceTransformers(
        "sentence-transformers", str(weights), SentenceSettings.model_validate(values)
    )


def searched(
    weights: Path | str, folder: Path, k: int = 100, **settings: Any
) -> tuple[Retriever, Mapping[str, dict[str, float]]]:
    """Index `documents` and return ``{query: {document: score}}``."""
    values = {"precision": "fp32", "device": "cpu", "workers": 0, **settings}
    retriever = make_retriever(f"{ADDRESS}/{weights}", values)
    retriever.index(ListedDocuments(documents()), Workspace(folder, retriever.index_identity()))
    ranking = retriever.search(queries(), k)
    return retriever, {
        query: dict(zip(found.documents, found.scores.tolist(), strict=True))
        for query, found in ranking.items()
    }


def best(scores: np.ndarray, texts: Sequence[str]) -> list[dict[str, float]]:
    """Return the expected scores of `documents`, given those of `texts`."""
    return [
        {"both": max(row[0], row[1])} | {f"d{n}": row[n] for n in range(len(texts))}
        for row in scores.tolist()
    ]


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_dense_model_scores_as_the_library_does(tmp_path: Path, similarity: Any) -> None:
    made = tiny_dense(3)
    made.prompts = {"query": "find: ", "document": "text: ", "other": "a b c "}
    made.similarity_fn_name = similarity
    folder = save(made, tmp_path / "model")
    library = SentenceTransformer(str(folder), device="cpu")
    scores = library.similarity(
        library.encode_query(list(QUERIES)), library.encode_document(list(TEXTS))
    )
    retriever, found = searched(folder, tmp_path / "index")
    for query, expected in zip(queries(), best(scores.numpy(), TEXTS), strict=True):
        assert found[query.id] == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert retriever.losses == {"asr cut": 1}
    assert not retriever.untrained


def test_a_multi_vector_model_scores_as_the_library_does(tmp_path: Path) -> None:
    made = tiny_multi_vector(3)
    made.prompts = {"query": "[Q] ", "document": "[D] "}
    folder = save(made, tmp_path / "model")
    library = MultiVectorEncoder(str(folder), device="cpu")
    scores = library.similarity(
        library.encode_query(list(QUERIES)), library.encode_document(list(TEXTS))
    )
    # A document of two texts is scored token by token, so it lies above each of them.
    retriever, found = searched(folder, tmp_path / "index", aggregation="modality_max")
    for query, expected in zip(queries(), best(scores.numpy(), TEXTS), strict=True):
        assert found[query.id] == pytest.approx(expected, abs=1e-5)
    assert retriever.losses == {"asr cut": 1}


def test_query_expansion_and_skipped_words_are_the_models(tmp_path: Path) -> None:
    made = tiny_multi_vector(3)
    transformer, mask = made[0], made[2]
    made.tokenizer.mask_token = "<|im_end|>"
    transformer.query_expansion = {"strategy": "fixed", "length": 12}
    transformer.document_length = 20
    mask.skiplist_words = [".", ","]
    folder = save(made, tmp_path / "model")
    mine = encoder(folder)
    found = mine.encode_queries(queries())
    assert np.diff(found.offsets).tolist() == [12] * len(QUERIES)
    told = mine.query_tokens(queries()[0])
    assert told is not None
    assert told[-1] == "<|im_end|>"
    made_of = mine.encode_documents(documents())
    library = MultiVectorEncoder(str(folder), device="cpu").encode_document([TEXTS[0], TEXTS[6]])
    assert made_of.spans is not None
    for place, vectors in ((2, library[0]), (8, library[1])):
        rows = slice(made_of.offsets[place], made_of.offsets[place + 1])
        np.testing.assert_allclose(made_of.vectors[rows], vectors, atol=1e-5)
    text = TEXTS[0]
    rows = slice(made_of.offsets[2], made_of.offsets[3])
    spelled = [text[int(a) : int(b)] for a, b in made_of.spans[rows, :2]]
    assert "," not in [word.strip() for word in spelled]
    assert "".join(spelled) == text.replace(",", "")
    assert made_of.spans[made_of.offsets[8] : made_of.offsets[9], 1].max() < len(TEXTS[6])


def test_spans_of_tokens_are_characters_behind_the_prompt(tmp_path: Path) -> None:
    made = tiny_multi_vector(3)
    made.prompts = {"query": "", "document": "a document: "}
    mine = encoder(save(made, tmp_path / "model"))
    found = mine.encode_documents([Document("a", texts={Modality.OCR: TEXTS[2]})])
    assert found.spans is not None
    own = found.spans[~np.isnan(found.spans[:, 0])]
    assert len(own) < len(found.spans)  # the prompt's tokens come from no part of the text
    shown = {c for a, b in own[:, :2].astype(int) for c in range(a, b)}
    assert shown == set(range(len(TEXTS[2])))


def test_spans_of_single_vectors_are_what_was_read() -> None:
    mine = encoder("tiny")
    found = mine.encode_documents(documents())
    assert found.spans is not None
    assert found.spans[0, :2].tolist() == [0, len(TEXTS[0])]
    cut = found.spans[found.offsets[8], 1]
    assert 100 < cut < len(TEXTS[6])
    assert mine.losses == {"asr cut": 1}
    assert mine.query_tokens(queries()[0]) is None


def test_company_does_not_change_a_documents_vectors(tmp_path: Path) -> None:
    clip, late = tiny_images(32, 3), tiny_multi_vector(3)
    for weights in ("tiny", save(late, tmp_path / "late"), save(clip, tmp_path / "clip")):
        together = encoder(weights).encode_documents(documents())
        apart = encoder(weights, batch_inputs=1)
        assert np.isfinite(together.vectors).all()
        for place, document in enumerate(documents()):
            alone = apart.encode_documents([document])
            rows = slice(together.offsets[place], together.offsets[place + 1])
            if len(alone.vectors):
                np.testing.assert_allclose(together.vectors[rows], alone.vectors, atol=1e-5)
            else:
                assert document.id == "empty"
                assert rows.start == rows.stop


@pytest.mark.parametrize(
    ("settings", "query", "document"),
    [
        ({}, "q: ", "p: "),
        ({"query_prompt": "", "document_prompt": ""}, "", ""),
        ({"query_prompt": "ask ", "document_prompt_name": "other"}, "ask ", "o: "),
    ],
)
def test_prompts_are_the_models_or_as_asked_for(
    tmp_path: Path, settings: dict[str, str], query: str, document: str
) -> None:
    made = tiny_dense(3)
    made.prompts = {"query": "q: ", "passage": "p: ", "other": "o: "}
    mine = encoder(save(made, tmp_path / "model"), **settings)
    library = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for found, prompt, text in (
        (mine.encode_queries(queries()[:1]), query, QUERIES[0]),
        (mine.encode_documents(documents()[:1]), document, TEXTS[0]),
    ):
        expected = library.encode([text], prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(found.vectors[:1], expected, atol=1e-5)


def test_a_prompt_that_the_model_lacks_is_an_error(tmp_path: Path) -> None:
    made = tiny_dense(3)
    made.prompts = {"query": "q: ", "document": ""}
    mine = encoder(save(made, tmp_path / "model"), query_prompt_name="web")
    with pytest.raises(UsageError, match=r"'web'.*'document', 'query'"):
        mine.encode_queries(queries())
    with pytest.raises(UsageError, match="give one of them"):
        make_retriever(f"{ADDRESS}/tiny", {"query_prompt": "a", "query_prompt_name": "b"})


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)


def test_a_model_that_reads_chat_messages(tmp_path: Path) -> None:
    """As embedding models on language models do: a template stands around each text."""
    tokenizer = tiny_dense(3).tokenizer
    tokenizer.chat_template, tokenizer.model_max_length = CHAT, 64
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(3)
    Qwen2Model(config).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    modules = [Transformer(str(tmp_path / "bare")), Pooling(32, "lasttoken")]
    made = SentenceTransformer(modules=modules, device="cpu")
    assert "message" in made.modalities
    made.prompts = {"query": "Find what is asked for.", "document": ""}
    folder = save(made, tmp_path / "model")
    library = SentenceTransformer(str(folder), device="cpu")
    # The template takes 5 tokens: of these texts of 55 to 63 tokens, four are cut.
    texts = [" ".join("abcdefghij"[n % 10] for n in range(length)) for length in range(50, 59)]
    assert [len(tokenizer(text)["input_ids"]) for text in texts] == list(range(55, 64))
    mine = encoder(folder)
    found = mine.encode_documents(
        [Document(str(n), texts={Modality.ASR: text}) for n, text in enumerate(texts)]
    )
    expected = library.encode_document(texts, normalize_embeddings=True)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert mine.losses == {"asr cut": 4}
    expected = library.encode_query(list(QUERIES), normalize_embeddings=True)
    np.testing.assert_allclose(mine.encode_queries(queries()).vectors, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["euclidean", "manhattan"])
def test_other_similarities_are_refused(tmp_path: Path, name: Any) -> None:
    made = tiny_dense(3)
    made.similarity_fn_name = name
    folder = save(made, tmp_path / "model")
    with pytest.raises(UsageError, match=f"{name}.*set similarity to cosine or dot"):
        encoder(folder).encode_queries(queries())
    assert len(encoder(folder, similarity="dot").encode_queries(queries())) == len(QUERIES)


def test_the_same_seed_is_the_same_model() -> None:
    torch.manual_seed(1)
    one = encoder("tiny").encode_queries(queries())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = encoder("tiny").encode_queries(queries())
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert encoder("tiny").untrained


def test_masks_and_attribution(tmp_path: Path) -> None:
    retriever, _ = searched("tiny", tmp_path / "index")
    assert retriever.masks
    told = retriever.explain(queries()[:1], [["both"]])[0][0]
    assert np.flatnonzero(np.isfinite(told.by_modality)).tolist() == [Modality.ASR, Modality.OCR]
    retriever.modalities = frozenset({Modality.OCR})
    ranking = retriever.search(queries()[:1], 100)
    assert "d0" not in ranking["q0"].documents
    assert "both" in ranking["q0"].documents


def test_the_built_in_models_run_on_the_sample(bench: Command, tmp_path: Path) -> None:
    room = Path(__file__).parents[1] / "retrievers"
    names = {
        "SentenceTransformers": room / "st/encoder.py",
        "SparseTransformers": room / "st/sparse.py",
        "MClip": room / "mclip.py",
    }
    asked = [
        each
        for name, file in names.items()
        for each in (
            "--retriever", f"{file}:{name}/tiny", "--set", f"{name}.device=cpu",
        )
    ]  # fmt: skip
    outcome = bench(
        "run", "--task", "multivent/sample", "--k", "10", "--set", "MClip.workers=0",
        "--set", "multivent/sample.test_videos=12", "--set", "multivent/sample.train_videos=2",
        *asked,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    results = [run.result for run in ResultsStore(tmp_path / "results").runs()]
    assert {result.retriever.name for result in results} == set(names)
    assert all(result.retriever.untrained for result in results)
    for result in results:
        # By chance 0.38: equal words find each other even without training.
        assert result.breakdowns["query_type"]["asr"].measures["nDCG@10"].mean > 0.4
