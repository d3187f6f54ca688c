"""The encoder: pooling, modalities and spans, long texts, batches, gradients, a whole run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model

from harness.encoder import Trainable
from harness.errors import DataError, PluginError, UsageError
from harness.late_interaction import TokenEmbeddings, max_sim
from harness.results import ResultsStore
from harness.types import Document, Media, Modality, Query
from retrievers.batches import Batches
from retrievers.clip.encoder import Clip
from retrievers.clip.pieces import pooled
from tests.clip_cases import TYPES, clip, documents, encoder, pictures, saved, siglip, write
from tests.conftest import Command
from tests.media_files import media, plain, write_video

ENCODER = Path(__file__).parents[1] / "retrievers" / "clip" / "encoder.py"


def by_modality(found: TokenEmbeddings, item: int) -> dict[Modality, Any]:
    """The vectors of one document."""
    first, last = found.item_segments[[item, item + 1]]
    return {
        Modality(int(found.modalities[s])): found.vectors[
            found.segment_offsets[s] : found.segment_offsets[s + 1]
        ]
        for s in range(first, last)
    }


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("frames_as", ["mean", "max", "each"])
def test_company_does_not_change_vectors(kind: str, frames_as: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path / "model")
    made = encoder(kind, folder, frames_as=frames_as, long_texts="windows")
    collection = documents(tmp_path)
    together = made.encode_documents(collection)
    alone = TokenEmbeddings.concatenate([made.encode_documents([each]) for each in collection])
    made.engine.batches.most = 2
    small = made.encode_documents(collection)
    for other in (alone, small):
        np.testing.assert_array_equal(together.offsets, other.offsets)
        np.testing.assert_array_equal(together.modalities, other.modalities)
        np.testing.assert_allclose(together.vectors, other.vectors, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-5)
    asked = [Query(str(n), text) for n, text in enumerate(("a", "many words " * 5, "", "東京"))]
    np.testing.assert_allclose(
        made.encode_queries(asked).vectors,
        np.concatenate([made.encode_queries([each]).vectors for each in asked]),
        rtol=0,
        atol=1e-5,
    )


def test_each_vector_belongs_to_its_modality_and_knows_its_source(tmp_path: Path) -> None:
    collection = documents(tmp_path)
    found = clip(frames_as="each").encode_documents(collection)
    counts = [{m: len(v) for m, v in by_modality(found, n).items()} for n in range(5)]
    assert counts == [
        {Modality.VIDEO: 3},
        {
            Modality.VIDEO: 2, Modality.ASR: 1, Modality.OCR: 1,
            Modality.DESCRIPTION: 1, Modality.IMAGE: 2,
        },
        {Modality.TEXT: 1},
        {Modality.IMAGE: 1},
        {},
    ]  # fmt: skip
    assert found.spans is not None
    whole, box = [0, 0, 1, 1], slice(2, 6)
    pictured = np.isin(
        np.repeat(found.modalities, np.diff(found.segment_offsets)),
        [Modality.VIDEO, Modality.IMAGE],
    )
    assert (found.spans[pictured, box] == whole).all()
    assert np.isnan(found.spans[~pictured, box]).all()
    # The speech is read to its end; its characters are counted in the text as it stands.
    speech = found.spans[found.offsets[1] + 2]
    assert speech[:2].tolist() == [0, len(collection[1].texts[Modality.ASR])]


def test_frames_know_their_seconds(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", plain(50))
    document = Document("d", {}, {Modality.VIDEO: (media(path),)})
    each = clip(frames_as="each", frames=4).encode_documents([document])
    assert each.spans is not None
    np.testing.assert_array_equal(each.spans[:, 0], each.spans[:, 1])
    assert (np.diff(each.spans[:, 0]) > 0.4).all()
    assert (np.diff(each.spans[:, 6]) >= 1).all(), "numbers of frames"
    one = clip(frames=4).encode_documents([document])
    assert one.spans is not None
    assert one.spans[0, :2].tolist() == [each.spans[0, 0], each.spans[-1, 0]]


def test_pooling_is_of_unit_vectors_and_each_scores_its_best_frame(tmp_path: Path) -> None:
    folder = write("clip", tmp_path / "model")
    picture = pictures()[0]
    document = Document(
        "d", {}, {Modality.VIDEO: saved(tmp_path, [picture, picture[::-1], 255 - picture])}
    )
    asked = clip(folder).encode_queries([Query("q", "a red bridge")])
    each, mean, largest = (
        clip(folder, frames_as=how).encode_documents([document])
        for how in ("each", "mean", "max")
    )  # fmt: skip
    frames = each.vectors.astype(np.float64)
    for found, expected in ((mean, frames.mean(axis=0)), (largest, frames.max(axis=0))):
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(found.vectors, expected[None], rtol=0, atol=1e-6)
    scores = frames @ asked.vectors[0]
    np.testing.assert_allclose(max_sim(asked, each).total[0, 0], scores.max(), atol=1e-6)
    assert np.ptp(scores) > 1e-3


@given(st.integers(1, 6), st.integers(0, 2**16), st.sampled_from(["mean", "max"]))
def test_a_pooled_vector_is_a_unit_vector(count: int, seed: int, how: Any) -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    found = pooled(vectors, how)
    assert found.shape == (1, 5)
    assert abs(float(found.norm()) - 1) < 1e-5


# -------------------------------------------------------------------------- texts


@pytest.mark.parametrize("make", [clip, siglip])
def test_a_long_text_is_cut_by_rule_and_counted(make: Any) -> None:
    made = make()
    limit = 75 if make is clip else 63
    fits = ("a " * limit).strip()  # each a is one token of the tiny vocabulary
    over = fits + " ending nobody reads"
    batch = [
        Document("fits", {Modality.ASR: fits}),
        Document("over", {Modality.ASR: over, Modality.OCR: over}),
    ]
    found = made.encode_documents(batch)
    np.testing.assert_allclose(found.vectors[0], found.vectors[1], rtol=0, atol=1e-6)
    assert made.losses == {"asr cut": 1, "ocr cut": 1}
    assert found.spans is not None
    assert found.spans[:, 1].tolist() == [len(fits)] * 3


def test_windows_read_all_of_a_long_text(tmp_path: Path) -> None:
    folder = write("siglip", tmp_path / "model")
    made = siglip(folder, long_texts="windows")
    parts = ["r" * 63, "é" * 31 + "e", "t" * 10]  # a token a byte, 63 of them a window
    batch = [Document("whole", {Modality.OCR: "".join(parts)})]
    batch += [Document(part, {Modality.OCR: part}) for part in parts]
    found = made.encode_documents(batch)
    expected = found.vectors[1:].mean(axis=0)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.vectors[0], expected, rtol=0, atol=1e-5)
    assert found.spans is not None
    assert found.spans[0, :2].tolist() == [0, sum(map(len, parts))]
    assert not made.losses
    cut = siglip(folder).encode_documents(batch[:1])
    np.testing.assert_allclose(cut.vectors[0], found.vectors[1], rtol=0, atol=1e-6)


def test_marks_in_a_text_are_plain_characters(tmp_path: Path) -> None:
    """A text cannot end itself: what follows a mark counts."""
    folder = write("clip", tmp_path / "model")
    texts = ["fire<|endoftext|>", "fire<|endoftext|> in the harbour"]
    found = clip(folder).encode_queries([Query(text, text) for text in texts]).vectors
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_text_of_which_nothing_is_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = clip()
    monkeypatch.setattr(made.engine.towers.texts, "windows", lambda text: [])
    found = made.encode_documents([Document("d", {Modality.OCR: "?"})])
    assert len(found) == 1
    assert len(found.vectors) == 0
    assert made.losses == {"ocr unreadable": 1}
    # A query has a vector all the same: its ranking means little, but it is one.
    assert len(made.encode_queries([Query("q", "?")]).vectors) == 1


# -------------------------------------------------------------------------- documents


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    document = Document("d", {Modality.OCR: "LIVE", Modality.ASR: "a"}, {
        Modality.VIDEO: (Media(broken, broken.name, 11),)
    })  # fmt: skip
    found = clip(encode_modalities=["ocr"]).encode_documents([document])
    assert found.modalities.tolist() == [Modality.OCR]
    with pytest.raises(DataError, match=r"broken\.mp4"):
        clip().encode_documents([document])
    made = clip(on_damaged="skip-modality")
    assert made.encode_documents([document]).modalities.tolist() == [Modality.ASR, Modality.OCR]
    assert made.losses["video corrupt"] == 1
    assert len(clip(on_damaged="skip-document").encode_documents([document]).vectors) == 0
    for names, word in ((["audio"], "no tower"), (["sound"], "unknown modality")):
        with pytest.raises(ValueError, match=word):
            clip(encode_modalities=names)


def test_media_expected_are_decoded_ahead_and_the_parts_of_time_are_told(tmp_path: Path) -> None:
    batch = documents(tmp_path)
    made = clip(workers=1)
    made.expect(batch[2:])
    parts = [made.encode_documents(batch[:2]), made.encode_documents(batch[2:])]
    spent = made.seconds
    made.close()
    assert set(spent) == {"decode", "wait", "model"}
    assert all(value > 0 for value in spent.values())
    whole = clip().encode_documents(batch)
    both = TokenEmbeddings.concatenate(parts)
    np.testing.assert_allclose(both.vectors, whole.vectors, rtol=0, atol=1e-5)


# -------------------------------------------------------------------------- batches


def numbered(batch: Sequence[int]) -> list[int]:
    return list(batch)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_batches_keep_the_order(lengths: list[int], most: int) -> None:
    batches = Batches(torch.device("cpu"), most)
    found = batches.run(numbered, list(range(len(lengths))), lengths)
    assert found == list(range(len(lengths)))


def test_out_of_memory_halves_the_batch_and_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    batches, sizes = Batches(torch.device("cpu"), 16), []

    def short(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 5:
            raise torch.OutOfMemoryError("no room")
        return numbered(batch)

    assert batches.run(short, list(range(20)), [1] * 20) == list(range(20))
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    assert "batch_inputs" in caplog.text
    sizes.clear()
    batches.run(short, list(range(8)), [1] * 8)
    assert sizes == [4, 4]

    def never(batch: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(PluginError, match="does not fit into the memory of cpu"):
        batches.run(never, [1, 2], [1, 1])

    def broken(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        batches.run(broken, [1], [1])


# -------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", TYPES)
def test_gradients_reach_the_lora_layers_of_both_towers(kind: str, tmp_path: Path) -> None:
    made = encoder(kind, write(kind, tmp_path / "model"))
    assert isinstance(made, Trainable)
    targets = list(made.lora_targets())
    for tower in ("text_model.", "vision_model."):
        assert any(name.startswith(tower) for name in targets)
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=targets, init_lora_weights=False), made.module
    )
    asked, _ = made.forward_queries([Query("a", "night"), Query("b", "fire in the harbour")])
    found, numbers = made.forward_documents(documents(tmp_path)[:3])
    weight = torch.randn(found.shape[-1], generator=torch.Generator().manual_seed(1))
    ((asked @ weight).sum() + (found[numbers > 0] @ weight).sum()).backward()
    low_rank = {n: p for n, p in made.module.named_parameters() if "lora_" in n}
    assert len(low_rank) == 2 * len(targets)
    still = [n for n, p in low_rank.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("make", [clip, siglip])
def test_forward_gives_what_encode_gives(make: Any, tmp_path: Path) -> None:
    made = make(frames_as="each")
    batch = documents(tmp_path)
    vectors, numbers = made.forward_documents(batch)
    assert vectors.requires_grad
    assert vectors.shape[:2] == numbers.shape
    stored = made.encode_documents(batch)
    for item in range(len(batch)):
        kept = numbers[item] > 0
        again = TokenEmbeddings.from_padded(
            vectors[item : item + 1].detach(), kept[None], numbers[item : item + 1]
        )
        own = stored[item : item + 1]
        np.testing.assert_allclose(again.vectors, own.vectors, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(again.modalities, own.modalities)
        assert (vectors[item][~kept] == 0).all()
    asked, kinds = made.forward_queries([Query("q", "a"), Query("r", "b c")])
    assert asked.shape[:2] == kinds.shape == (2, 1)
    with pytest.raises(PluginError, match="none of these documents"):
        made.forward_documents([Document("nothing")])


# -------------------------------------------------------------------------- built in


@pytest.mark.parametrize("make", [clip, siglip])
def test_tiny_is_small_the_same_each_time_and_says_that_it_is_untrained(make: Any) -> None:
    first, second = make(initial_seed=0), make(initial_seed=0)
    assert first.untrained
    texts = ("a red bridge", "красный мост", "红桥", "جسر أحمر")
    asked = [Query(text, text) for text in texts]
    torch.manual_seed(123)
    found = first.encode_queries(asked).vectors
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(found, second.encode_queries(asked).vectors)
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(np.unique(found.round(4), axis=0)) == len(texts)
    assert sum(parameter.numel() for parameter in first.module.parameters()) < 1_000_000


@pytest.mark.parametrize("name", ["Clip", "Siglip"])
def test_from_mp4_to_a_ranking(name: str, bench: Command, tmp_path: Path) -> None:
    """The main job on a small sample: decoded in worker processes, encoded, searched, recorded."""
    outcome = bench(
        "run", "--task", "multivent/sample", "--retriever", f"{ENCODER}:{name}/tiny", "--k", "10",
        "--set", "multivent/sample.test_videos=8", "--set", "multivent/sample.train_videos=2",
        "--set", f"{name}.workers=1", "--set", f"{name}.initial_seed=0",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (run,) = ResultsStore(tmp_path / "results").runs()
    assert run.result.retriever.untrained
    assert run.result.retriever.address.endswith(f"{name}/tiny")


def test_importing_and_making_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from retrievers.clip.encoder import Clip, Siglip\n"
        "for kind in (Clip, Siglip): kind('name', 'tiny', kind.Settings())\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"clip needs transformers.*clamr-bench\[models\]"):
        Clip("clip", "tiny", Clip.Settings()).identity()
