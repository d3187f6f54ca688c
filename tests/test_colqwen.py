"""ColQwen: transformers' own vectors, the family's prompts, pages and their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.types import TEXT_MODALITIES, Document, Media, Modality, Query
from retrievers.colqwen.encoder import COLQWEN, ColQwen
from retrievers.qwen.form import OMNI, VL, VL2, Form
from retrievers.qwen.prompt import PAD
from retrievers.qwen.sequence import Content, Tokens
from retrievers.qwen.tiny import FOLDER
from retrievers.qwen.tokens import Vocabulary
from retrievers.source import TOKENIZER
from tests.colqwen_cases import BUILT_IN, DIM, colqwen, stock_checkpoint
from tests.conftest import Command

RNG = np.random.default_rng(7)
#: Pages of several sizes: kept, enlarged (100 pixels at least) and made smaller.
PAGES = [
    RNG.integers(0, 256, shape, dtype=np.uint8)
    for shape in ((84, 112, 3), (40, 30, 3), (300, 500, 3))
]
SOUND = RNG.normal(0, 0.1, 24_000).astype(np.float32)
ASKED = ["blue boat on the river", "What is shown?", "7 東京 Crêpes", ""]
VOCABULARY = Vocabulary(FOLDER)
#: Keeps the tiny cases small: the largest page is 48 tokens.
MOST = 48 * 28 * 28


def processor() -> ColQwen2Processor:
    """transformers' own, without torchvision."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / TOKENIZER), pad_token=PAD, padding_side="left"
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": MOST}
    return ColQwen2Processor(Qwen2VLImageProcessor(size=size), tokenizer)


def of_stock(model: ColQwen2ForRetrieval, inputs: Any, **more: Any) -> list[Any]:
    """What transformers gives, padding taken away."""
    with torch.inference_mode():
        found = model(**inputs, **more).embeddings
    kept = inputs["attention_mask"].bool()
    return [row[mask].numpy() for row, mask in zip(found, kept, strict=True)]


def grid_positions(model: ColQwen2ForRetrieval, inputs: Any) -> torch.Tensor:
    """The positions of images by transformers' own rule, on which the models were trained."""
    found, _ = model.vlm.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
        mm_token_type_ids=(inputs["input_ids"] == VOCABULARY.id("<|image_pad|>")).int(),
    )
    return found


def same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, stock in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, stock, rtol=0, atol=1e-5)


def pages_of(encoder: ColQwen) -> list[Tokens]:
    return encoder.engine.prompt.document(Content(images=PAGES))


@pytest.mark.parametrize("form", [VL2, VL], ids=lambda form: form.name)
def test_compat_gives_the_vectors_of_transformers_own_class(form: Form, tmp_path: Path) -> None:
    model, inputs = stock_checkpoint(form, tmp_path), processor()
    encoder = colqwen(tmp_path, compat=True, max_pixels=MOST)
    asked = encoder.encode_queries([Query(str(n), text) for n, text in enumerate(ASKED)])
    assert asked.dim == DIM
    stock = of_stock(model, inputs(text=ASKED))
    same([asked[n : n + 1].vectors for n in range(len(ASKED))], stock)

    seen = inputs(images=[Image.fromarray(page) for page in PAGES])
    sequences = pages_of(encoder)
    for tokens, ids, mask in zip(sequences, seen["input_ids"], seen["attention_mask"], strict=True):
        np.testing.assert_array_equal(tokens.ids, ids[mask.bool()])
    same(encoder.engine.encode(sequences), of_stock(model, seen))


@pytest.mark.parametrize("form", [VL2, VL], ids=lambda form: form.name)
def test_the_default_gives_pages_the_positions_of_their_grid(form: Form, tmp_path: Path) -> None:
    """transformers 5 left them out of its class; with its own rule for them all agree again."""
    model, inputs = stock_checkpoint(form, tmp_path), processor()
    encoder = colqwen(tmp_path, max_pixels=MOST)
    seen = inputs(images=[Image.fromarray(page) for page in PAGES])
    found = encoder.engine.encode(pages_of(encoder))
    same(found, of_stock(model, seen, position_ids=grid_positions(model, seen)))
    in_a_row = of_stock(model, seen)
    assert max(abs(a - b).max() for a, b in zip(found, in_a_row, strict=True)) > 1e-3

    asked = encoder.encode_queries([Query("q", ASKED[0])])
    longer = of_stock(model, inputs(text=ASKED[:1]))[0]
    # Nothing looks ahead: the line break that transformers adds changes no vector before it.
    np.testing.assert_allclose(asked.vectors, longer[:-1], rtol=0, atol=1e-5)


def of_thinker(encoder: ColQwen, tokens: Tokens) -> Any:
    """transformers' own thinker, with its own positions."""
    model, ids = encoder.engine.model, torch.from_numpy(tokens.ids)[None]
    inputs: dict[str, Any] = {}
    if tokens.patches is not None:
        kind = ("pixel_values", "image") if tokens.still else ("pixel_values_videos", "video")
        inputs[kind[0]] = model._normalised(torch.from_numpy(tokens.patches.pixels))
        inputs[f"{kind[1]}_grid_thw"] = torch.tensor([tokens.patches.grid])
        inputs["video_second_per_grid"] = None if tokens.still else torch.ones(1)
    if tokens.mel is not None:
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
        features = extractor(
            SOUND, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
        )
        inputs["input_features"] = features["input_features"]
        inputs["feature_attention_mask"] = features["attention_mask"]
    with torch.inference_mode():
        states = model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
        projected = model.custom_text_proj(states.last_hidden_state)
    return torch.nn.functional.normalize(projected, dim=-1)[0].numpy()


@pytest.mark.parametrize("frames_as", ["pages", "video"])
def test_omni_sees_and_hears_as_stock_transformers_does(frames_as: str) -> None:
    encoder = colqwen("tiny-omni", frames_as=frames_as, max_pixels=MOST)
    content = Content(frames=PAGES[:2], images=PAGES[2:], sound=SOUND, texts={Modality.OCR: "LIVE"})
    sequences = encoder.engine.prompt.document(content)
    assert len(sequences) == {"pages": 5, "video": 4}[frames_as]
    same(encoder.engine.encode(sequences), [of_thinker(encoder, tokens) for tokens in sequences])


SYSTEM = f"<|im_start|>system\n{OMNI.system}<|im_end|>\n<|im_start|>user\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    VL2: (
        f"<|im_start|>user\n<|vision_start|>@<|vision_end|>Describe the image.<|im_end|>{PAD}",
        "a crowd",
        f"Query: a crowd{PAD * 10}",
    ),
    OMNI: (
        f"{SYSTEM}<|vision_bos|>@<|vision_eos|>Describe the content.{ANSWER}",
        f"{SYSTEM}a crowd{ANSWER}",
        f"{SYSTEM}Query: a crowd{PAD * 10}{ANSWER}",
    ),
}
PROMPTS[VL] = PROMPTS[VL2]


@pytest.mark.parametrize("form", [VL2, VL, OMNI], ids=lambda form: form.name)
def test_prompts_are_the_familys_own_and_tokenised_as_one_text(form: Form) -> None:
    prompt = colqwen(BUILT_IN[form]).engine.prompt
    page, text, query = PROMPTS[form]
    (seen,) = prompt.document(Content(images=PAGES[:1]))
    (read,) = prompt.document(Content(texts={Modality.ASR: "a crowd"}))
    for tokens, whole in (
        (seen, page.replace("@", form.image.place * 12)),
        (read, text),
        (prompt.query("a crowd"), query),
    ):
        np.testing.assert_array_equal(tokens.ids, VOCABULARY.encode_marked(whole))
    # As scored by the family, every token of a page counts, and of a query.
    assert (seen.modalities == Modality.IMAGE).all()
    assert (prompt.query("a crowd").modalities == Modality.TEXT).all()


def test_every_token_knows_its_place() -> None:
    encoder = colqwen("tiny-omni", template_tokens=False)
    content = Content(
        frames=PAGES[:1] * 2,
        seconds=[0.5, 2.5],
        numbers=[12, 60],
        images=PAGES[1:2],
        sound=SOUND,
        texts=dict.fromkeys(TEXT_MODALITIES, "Crêpes 東京"),
    )
    sequences = encoder.engine.prompt.document(content)
    order = [max(tokens.modalities.tolist()) for tokens in sequences]
    media = [Modality.VIDEO, Modality.VIDEO, Modality.IMAGE, Modality.AUDIO]
    assert order == [*media, *TEXT_MODALITIES]
    for tokens in sequences:
        assert np.isnan(tokens.spans[tokens.modalities == 0]).all()
    first, second, image, sound, *texts = [t.spans[t.modalities != 0] for t in sequences]
    assert len(first) == len(second) == 12  # 3 rows of 4
    np.testing.assert_allclose(second[0], [2.5, 2.5, 0, 0, 1 / 4, 1 / 3, 60], atol=1e-6)
    np.testing.assert_allclose(first[-1], [0.5, 0.5, 3 / 4, 2 / 3, 1, 1, 12], atol=1e-6)
    assert np.isnan(image[:, :2]).all()
    assert not np.isnan(image[:, 2:]).any()
    assert sound[0, 0] == 0
    assert sound[-1, 1] == pytest.approx(1.5)
    for spans in texts:
        covered = {place for start, end, *_ in spans for place in range(int(start), int(end))}
        assert covered == set(range(len("Crêpes 東京")))


# ------------------------------------------------------------------ documents


def media(folder: Path) -> Document:
    """Two frames, an image, and two texts."""
    files = []
    for number, page in enumerate(PAGES):
        path = folder / f"{number}.png"
        Image.fromarray(page).save(path)
        files.append(Media(path, path.name, path.stat().st_size))
    texts = {Modality.ASR: "a crowd by the river", Modality.TEXT: "boats"}
    return Document(
        "d", texts, {Modality.VIDEO: tuple(files[:1] * 2), Modality.IMAGE: tuple(files[2:])}
    )


def segments(found: TokenEmbeddings) -> dict[int, Any]:
    bounds = found.segment_offsets
    return {
        int(number): found.vectors[start:stop]
        for number, start, stop in zip(found.modalities, bounds[:-1], bounds[1:], strict=True)
    }


@pytest.mark.parametrize("weights", COLQWEN.built_in)
def test_to_leave_a_modality_out_is_to_mask_it(weights: str, tmp_path: Path) -> None:
    document = media(tmp_path)
    whole = segments(colqwen(weights, max_pixels=MOST).encode_documents([document]))
    assert set(whole) == {Modality.VIDEO, Modality.IMAGE, Modality.ASR, Modality.TEXT}
    for modality, vectors in whole.items():
        only = colqwen(weights, max_pixels=MOST, encode_modalities=[Modality(modality).label])
        alone = segments(only.encode_documents([document]))
        assert set(alone) == {modality}
        np.testing.assert_allclose(alone[modality], vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", COLQWEN.built_in)
def test_company_does_not_change_vectors(weights: str) -> None:
    encoder = colqwen(weights, max_pixels=MOST)
    prompt = encoder.engine.prompt
    sequences = prompt.document(
        Content(frames=PAGES, images=PAGES[:1], sound=SOUND, texts={Modality.OCR: "LIVE " * 30})
    )
    sequences.append(prompt.query("boats"))
    alone = [encoder.engine.encode([tokens])[0] for tokens in sequences]
    same(encoder.engine.encode(sequences), alone)
    encoder.engine.budget = 200
    same(encoder.engine.encode(sequences), alone)


def test_texts_too_long_are_cut_and_counted_and_empty_documents_have_no_tokens() -> None:
    encoder = colqwen("tiny-2", asr_length=5, text_length=3, query_length=20)
    texts = {Modality.ASR: "river " * 50, Modality.TEXT: "boats " * 50, Modality.OCR: "LIVE"}
    found = encoder.encode_documents([Document("d", texts), Document("e")])
    assert encoder.losses == {"asr cut": 1, "text cut": 1}
    lengths = {number: len(vectors) for number, vectors in segments(found[:1]).items()}
    assert lengths[Modality.ASR] == 5
    assert lengths[Modality.TEXT] == 3
    assert len(found[1:2].vectors) == 0
    asked = encoder.engine.prompt.query("river " * 50)
    assert len(asked) == 20
    assert (asked.ids[-10:] == VOCABULARY.id(PAD)).all()


def test_pages_are_seen_at_most_as_large_as_the_models_were_trained() -> None:
    large = np.zeros((2000, 1500, 3), np.uint8)
    for weights, most in (("tiny", 768), ("tiny-omni", 1024)):
        (tokens,) = colqwen(weights).engine.prompt.document(Content(images=[large]))
        assert tokens.patches is not None
        assert 0.9 * most < tokens.patches.tokens <= most


@pytest.mark.parametrize(
    ("weights", "settings", "words"),
    [
        ("tiny", {"frames_as": "video"}, "trained on pages alone"),
        ("tiny-2", {"frames_as": "video"}, "trained on pages alone"),
        ("tiny-omni", {"compat": True}, "no Omni form"),
        ("tiny", {"encode_modalities": ["audio"]}, "sound needs the Omni form"),
    ],
)
def test_what_a_form_cannot_is_one_message(
    weights: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        colqwen(weights, **settings).encode_queries([Query("q", "boats")])


def test_forward_gives_what_encode_gives_with_gradients(tmp_path: Path) -> None:
    encoder, document = colqwen("tiny-2", max_pixels=MOST), media(tmp_path)
    vectors, numbers = encoder.forward_documents([document, Document("e", {Modality.OCR: "LIVE"})])
    assert vectors.requires_grad
    whole = segments(encoder.encode_documents([document]))
    for number, expected in whole.items():
        chosen = vectors[0][numbers[0] == number].detach().numpy()
        np.testing.assert_allclose(chosen, expected, rtol=0, atol=1e-5)


def test_drawn_weights_are_untrained_and_settings_of_the_vectors_make_the_fingerprint() -> None:
    assert make_retriever("colqwen/tiny", {"initial_seed": 0}).untrained
    plain = make_retriever("colqwen/tiny")
    for name in ("tiny-omni", "tiny-2"):
        assert make_retriever(f"colqwen/{name}").fingerprint != plain.fingerprint
    same_vectors = make_retriever("colqwen/tiny", {"workers": 3, "batch_tokens": 99})
    assert same_vectors.fingerprint == plain.fingerprint
    for values in ({"frames": 4}, {"template_tokens": False}, {"query_prefix": ""}):
        assert make_retriever("colqwen/tiny", values).fingerprint != plain.fingerprint


def test_from_mp4_to_a_ranking(bench: Command, tmp_path: Path) -> None:
    outcome = bench(
        "run", "--task", "multivent/sample", "--retriever", "colqwen/tiny", "--k", "10",
        "--set", "multivent/sample.test_videos=12", "--set", "multivent/sample.train_videos=2",
        "--set", "colqwen.workers=2", "--set", "colqwen.frames=4",
        "--set", "colqwen.initial_seed=0",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (saved,) = ResultsStore(tmp_path / "results").runs()
    assert saved.result.retriever.untrained
    # By chance 0.38: equal words find each other even without training.
    assert saved.result.breakdowns["query_type"]["asr"].measures["nDCG@10"].mean > 0.5
