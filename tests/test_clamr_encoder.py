"""The encoder: the same vectors in any company, sound that is heard, batches that fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError, PluginError, UsageError
from harness.late_interaction import TokenEmbeddings, max_sim
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.types import Document, Media, Modality, Query
from retrievers.ahead import Ahead
from retrievers.clamr.encoder import CLAMR, Clamr
from retrievers.qwen.engine import grouped
from retrievers.qwen.packing import packed
from retrievers.qwen.sequence import Content, Tokens
from retrievers.qwen.tiny import TINY
from tests.clamr_cases import FIXTURES, OMNI, VL, clamr, documents, frames, pooled, queries
from tests.conftest import Command

SOUND = np.random.default_rng(5).normal(0, 0.1, 40_000).astype(np.float32)


def contents() -> list[Content]:
    """Every subset of video, sound, speech and on-screen text, of several lengths; one is empty."""
    made = []
    for number in range(16):
        texts = {}
        if number & 4:
            texts[Modality.ASR] = "a crowd by the river " * (1 + number)
        if number & 8:
            texts[Modality.OCR] = "LIVE " * (1 + number % 5)
        made.append(
            Content(
                frames=list(frames()[number % 6][: 1 + number % 4]) if number & 1 else (),
                sound=SOUND[: 8000 + 2000 * number] if number & 2 else None,
                texts=texts,
            )
        )
    return made


def sequences(encoder: Clamr) -> list[Tokens]:
    prompt = encoder.engine.prompt
    return [tokens for content in contents() for tokens in prompt.document(content)]


@pytest.mark.parametrize("weights", ["tiny", "tiny-omni", str(OMNI)])
def test_company_does_not_change_a_documents_vectors(weights: str) -> None:
    encoder = clamr(weights)
    made = sequences(encoder)
    together = encoder.engine.encode(made)
    alone = [encoder.engine.encode([tokens])[0] for tokens in made]
    encoder.engine.budget = 300
    bucketed = encoder.engine.encode(made[::-1])[::-1]
    for tokens, *found in zip(made, together, alone, bucketed, strict=True):
        assert all(each.shape == (len(tokens), 128) for each in found)
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[2], found[1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found[1], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("contextualise", [True, False])
def test_documents_of_any_modalities_or_none_go_together(
    monkeypatch: pytest.MonkeyPatch, contextualise: bool
) -> None:
    encoder = clamr("tiny-omni", contextualise=contextualise)
    monkeypatch.setattr(encoder, "_contents", lambda batch: iter(contents()))
    batch = [Document(str(number)) for number in range(16)]
    found = encoder.encode_documents(batch)
    assert len(found) == 16
    for number in range(16):
        segments = slice(*found.item_segments[[number, number + 1]])
        present = {
            bit
            for bit, has in (
                (Modality.VIDEO, number & 1), (Modality.AUDIO, number & 2),
                (Modality.ASR, number & 4), (Modality.OCR, number & 8),
            )
            if has
        }  # fmt: skip
        assert set(found.modalities[segments].tolist()) - {0} == present
    assert found.spans is not None
    assert found.offsets[1] == 0  # the first has nothing: no tokens at all


def test_a_query_can_be_read_token_by_token() -> None:
    encoder = clamr("tiny", query_augmentation=2)
    texts = encoder.query_tokens(Query("q", "blue 東京"))
    assert texts is not None
    assert len(texts) == len(encoder.encode_queries([Query("q", "blue 東京")]).vectors)
    assert texts[:3] == ["Query", ":", " blue"]
    assert texts[-2:] == ["<|endoftext|>"] * 2
    assert pooled("tiny").query_tokens(Query("q", "blue")) is None


def test_a_damaged_file_follows_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video")
    media = (Media(path, path.name, path.stat().st_size),)
    broken = Document("d", {Modality.OCR: "LIVE"}, {Modality.VIDEO: media})
    with pytest.raises(DataError, match=r"broken\.mp4"):
        clamr("tiny").encode_documents([broken])
    found = clamr("tiny", on_damaged="skip-modality").encode_documents([broken])
    assert set(found.modalities.tolist()) == {0, Modality.OCR}
    found = clamr("tiny", on_damaged="skip-document").encode_documents([broken])
    assert len(found.vectors) == 0
    assert len(found) == 1


# -------------------------------------------------------------------------- sound


def stock_audio(encoder: Clamr, tokens: Tokens) -> Any:
    """transformers' own thinker, its own positions and its own processor's features."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    features = extractor(
        SOUND, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
    )
    model = encoder.engine.model
    video = tokens.patches
    ids = torch.from_numpy(tokens.ids)[None]
    pixels, grids = None, None
    if video is not None:
        pixels = model._normalised(torch.from_numpy(video.pixels))
        grids = torch.tensor([video.grid])
    with torch.inference_mode():
        states = model.backbone(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features["input_features"],
            feature_attention_mask=features["attention_mask"],
            pixel_values_videos=pixels,
            video_grid_thw=grids,
            video_second_per_grid=torch.ones(1) if video else None,
        ).last_hidden_state
        projected = model.custom_text_proj(states)
    return torch.nn.functional.normalize(projected, dim=-1)[0].numpy()


@pytest.mark.parametrize("weights", ["tiny-omni", str(OMNI)])
@pytest.mark.parametrize("seen", [True, False])
def test_sound_is_heard_as_stock_transformers_hears_it(weights: str, seen: bool) -> None:
    encoder = clamr(weights)
    content = Content(
        frames=list(frames()[0]) if seen else (),
        sound=SOUND,
        texts={Modality.OCR: "LIVE", Modality.DESCRIPTION: "a concert"},
    )
    (tokens,) = encoder.engine.prompt.document(content)
    heard = tokens.ids == encoder.engine.model.config.audio_token_id
    assert heard.sum() == 62  # 250 mel frames
    assert (tokens.modalities[heard] == Modality.AUDIO).all()
    vectors = encoder.engine.encode([tokens])[0]
    np.testing.assert_allclose(vectors, stock_audio(encoder, tokens), rtol=0, atol=1e-5)


def test_another_sound_another_score_and_silence_is_a_sound() -> None:
    encoder = clamr("tiny-omni")
    asked = encoder.encode_queries(queries()[:1])
    scores = []
    for sound in (SOUND, SOUND[::-1].copy(), np.zeros_like(SOUND)):
        made = encoder.engine.prompt.document(Content(sound=sound))
        found = packed([made], encoder.engine.encode(made), pooled=False)
        scores.append(float(max_sim(asked, found).total[0, 0]))
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 3


# ------------------------------------------------------------------------ batches


@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(1, 5000))
def test_groups_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(grouped(lengths, budget))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_out_of_memory_halves_the_batch_and_stays_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = clamr("tiny")
    engine = encoder.engine
    made = sequences(encoder)
    expected = engine.encode(made)
    real, sizes = engine.forward, []

    def short(batch: list[Tokens]) -> Any:
        size = len(batch) * max(map(len, batch))
        sizes.append(size)
        if size > 400:
            raise torch.OutOfMemoryError("out of memory")
        return real(batch)

    monkeypatch.setattr(engine, "forward", short)
    for given_, found in zip(expected, engine.encode(made), strict=True):
        np.testing.assert_allclose(given_, found, rtol=0, atol=1e-5)
    assert engine.budget <= 400
    assert "out of memory" in caplog.text
    sizes.clear()
    engine.encode(made)
    assert max(sizes) <= 400
    monkeypatch.setattr(engine, "forward", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.encode(made)


def test_one_document_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = clamr("tiny")

    def none(batch: list[Tokens]) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(encoder.engine, "forward", none)
    with pytest.raises(PluginError, match="tokens does not fit into the memory of cpu"):
        encoder.encode_queries(queries())


def test_what_is_made_ahead_comes_in_order_and_errors_in_their_place() -> None:
    assert list(Ahead(iter(range(100)), 3)) == list(range(100))

    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    found = iter(Ahead(breaks(), 5))
    assert next(found) == 1
    with pytest.raises(ValueError, match="two"):
        next(found)
    made: list[int] = []
    endless = iter(Ahead((made.append(n) or n for n in iter(int, 1)), 2))  # type: ignore[func-returns-value]
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    count = len(made)
    assert count <= 5
    assert len(made) == count  # the thread has ended


# ----------------------------------------------------------------------- training


@pytest.mark.parametrize("make", [clamr, pooled])
def test_forward_gives_what_encode_gives_with_gradients(make: Any, tmp_path: Path) -> None:
    encoder = make("tiny")
    batch = documents(tmp_path)
    batch.insert(2, Document("empty"))
    vectors, numbers = encoder.forward_documents(batch)
    assert vectors.requires_grad
    assert vectors.shape[:2] == numbers.shape
    assert not vectors[2].any()
    found = TokenEmbeddings.from_padded(
        vectors.detach(), torch.ones_like(numbers), numbers, keep_unassigned=False
    )
    encoded = encoder.encode_documents(batch)
    kept = encoded.modalities != 0
    for number in range(len(batch)):
        mine = found[number : number + 1]
        theirs = encoded[number : number + 1]
        kept = np.repeat(theirs.modalities, np.diff(theirs.segment_offsets)) != 0
        np.testing.assert_allclose(mine.vectors, theirs.vectors[kept], rtol=0, atol=1e-5)
    asked, of = encoder.forward_queries(queries())
    assert (of != 0).any(dim=1).all()
    (vectors.sum() + asked.sum()).backward()
    assert encoder.module.backbone.language_model.layers[0].mlp.up_proj.weight.grad is not None
    with pytest.raises(PluginError, match="none of these documents"):
        encoder.forward_documents([Document("empty")])


def test_lora_takes_the_language_model_and_the_projection() -> None:
    targets = clamr("tiny").lora_targets()
    assert len(targets) == 3 * 7 + 1
    assert not any("visual" in name for name in targets)


# ----------------------------------------------------------- settings and versions


def test_a_fingerprint_is_of_the_vectors_and_not_of_the_machine() -> None:
    plain = make_retriever("clamr/tiny").fingerprint
    machine = {"workers": 3, "batch_tokens": 999, "cache_frames": True, "device": "cpu"}
    assert make_retriever("clamr/tiny", machine).fingerprint == plain
    for values in ({"frames": 4}, {"compat": True}, {"dtype": "bfloat16"}, {"ocr_length": 7}):
        assert make_retriever("clamr/tiny", values).fingerprint != plain
    assert make_retriever("clamr/tiny-omni").fingerprint != plain


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    collection = documents(tmp_path)
    found = clamr(VL, encode_modalities=["ocr", "asr"]).encode_documents(collection)
    assert set(found.modalities.tolist()) == {0, Modality.OCR, Modality.ASR}
    # Read alone is not the same as scored alone: the speech no longer sees the frames.
    whole = clamr(VL).encode_documents(collection)
    chosen = np.repeat(whole.modalities, np.diff(whole.segment_offsets)) == Modality.ASR
    alone = np.repeat(found.modalities, np.diff(found.segment_offsets)) == Modality.ASR
    assert abs(whole.vectors[chosen] - found.vectors[alone]).max() > 1e-3
    with pytest.raises(UsageError, match="sound needs the Omni form"):
        clamr(VL, encode_modalities=["audio"]).encode_documents(collection)


def test_pooled_is_the_last_state_and_one_vector(tmp_path: Path) -> None:
    encoder = pooled("tiny")
    collection = documents(tmp_path)
    found = encoder.encode_documents(collection)
    assert found.vectors.shape == (6, 128)
    assert set(found.modalities.tolist()) == {Modality.TEXT}
    engine = encoder.engine
    (tokens,) = engine.prompt.document(next(encoder._contents(collection)))
    batch = engine.model.collate([tokens], engine.prompt.pad)
    with torch.inference_mode():
        state = engine.model.hidden(batch)[0, -1].numpy()
    np.testing.assert_allclose(found.vectors[0], state / np.linalg.norm(state), atol=1e-5)
    with pytest.raises(UsageError, match="one vector of all"):
        pooled("tiny", contextualise=False)


def test_a_changed_output_needs_another_version(tmp_path: Path) -> None:
    """Vectors of random weights are stored: who changes them must raise `VERSION`."""
    with np.load(FIXTURES / "clamr_version.npz") as stored:
        assert stored["version"] == CLAMR.version, "made by another version: make the fixture anew"
        for name, weights in (("vl", VL), ("omni", OMNI)):
            encoder = clamr(weights)
            found = encoder.encode_documents(documents(tmp_path))
            asked = encoder.encode_queries(queries())
            for kind, made in (("documents", found), ("queries", asked)):
                rows = made.vectors[::50]
                message = f"{name} {kind} changed: raise VERSION and make the fixture anew"
                expected = stored[f"{name}_{kind}"]
                np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5, err_msg=message)


def test_listing_and_making_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from harness.registry import RETRIEVERS, make_retriever\n"
        "dict(RETRIEVERS.everything())\n"
        "for address in ('clamr/tiny', 'clamr-pooled/tiny', 'clamr'): make_retriever(address)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("retrievers.media_encoder.find_spec", lambda name: None)
    with pytest.raises(UsageError) as error:
        _ = make_retriever("clamr/tiny").fingerprint
    for word in ("torch", "peft", "transformers 5.22", "clamr-bench[models]"):
        assert word in str(error.value)


def test_weights_that_were_never_trained_say_so() -> None:
    for address in ("clamr/tiny", "clamr/tiny-omni", "clamr-pooled/tiny"):
        assert make_retriever(address, {"initial_seed": 0}).untrained
    assert not make_retriever(f"clamr/{VL}").untrained
    assert set(CLAMR.built_in) <= set(TINY)


def test_from_mp4_to_a_ranking(bench: Command, tmp_path: Path) -> None:
    """The main job on a small sample: decoded in worker processes, encoded, searched, recorded."""
    outcome = bench(
        "run", "--task", "multivent/sample", "--retriever", "clamr/tiny", "--k", "10",
        "--set", "multivent/sample.test_videos=12", "--set", "multivent/sample.train_videos=2",
        "--set", "clamr.workers=2", "--set", "clamr.initial_seed=0",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (saved,) = ResultsStore(tmp_path / "results").runs()
    assert saved.result.retriever.untrained
    assert saved.result.retriever.address == "clamr/tiny"
    # By chance 0.38: equal words find each other even without training.
    assert saved.result.breakdowns["query_type"]["asr"].measures["nDCG@10"].mean > 0.5


@pytest.mark.parametrize("compat", [False, True])
def test_a_text_longer_than_its_length_is_counted_once(compat: bool) -> None:
    texts = {Modality.OCR: "LIVE " * 20, Modality.ASR: "short"}
    encoder = clamr("tiny", ocr_length=8, compat=compat)
    encoder.encode_documents([Document("d", texts), Document("e", {Modality.OCR: "LIVE"})])
    assert encoder.losses == {"ocr cut": 1}
    # The reference cuts the whole at 2,048 tokens: its last texts give way.
    encoder = clamr("tiny", asr_length=4000, description_length=4000, compat=compat)
    long = {Modality.ASR: "river " * 1700, Modality.DESCRIPTION: "crowd " * 500}
    encoder.encode_documents([Document("d", long)])
    assert encoder.losses == ({"description cut": 1} if compat else {})


def test_media_expected_are_decoded_ahead_and_the_parts_of_time_are_told(tmp_path: Path) -> None:
    encoder = clamr("tiny", workers=1)
    batch = documents(tmp_path)
    encoder.expect(batch[3:])
    first = encoder.encode_documents(batch[:3])
    second = encoder.encode_documents(batch[3:])
    spent = encoder.seconds
    encoder.close()
    assert set(spent) == {"decode", "wait", "model"}
    assert all(value > 0 for value in spent.values())
    alone = clamr("tiny").encode_documents(batch)
    both = TokenEmbeddings.concatenate([first, second])
    np.testing.assert_allclose(both.vectors, alone.vectors, rtol=0, atol=1e-5)
