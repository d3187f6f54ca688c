"""The encoder: kinds of queries, images, modalities and places, batches, counts, a whole run."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer, CLIPImageProcessorPil

from harness.errors import DataError
from harness.late_interaction import TokenEmbeddings, max_sim
from harness.late_interaction.attribution import attribute
from harness.results import ResultsStore
from harness.retriever import QueryKind
from harness.types import Document, Media, Modality, Query
from tests.clip_cases import pictures, saved
from tests.conftest import Command
from tests.preflmr_cases import CHECKPOINT, INSTRUCTION, documents, picture, preflmr, queries

#: Of the checkpoint: vectors of an image's class token, and its patches.
PREFIX, PATCHES = 6, 16


def counts(found: TokenEmbeddings, item: int) -> dict[Modality, int]:
    """Vectors of an item by modality."""
    one = found[item : item + 1]
    sizes = np.diff(one.segment_offsets).tolist()
    return {Modality(n): s for n, s in zip(one.modalities.tolist(), sizes, strict=True)}


# ------------------------------------------------------------------------- queries


def test_each_kind_of_query_has_its_rows(tmp_path: Path) -> None:
    made, batch = preflmr(CHECKPOINT), queries(tmp_path)
    assert {QueryKind.of(query) for query in batch} == made.capabilities.query_kinds
    found = made.encode_queries(batch)
    image = {Modality.IMAGE: PREFIX + PATCHES}
    read = made.engine.questions.pieces.read
    # [CLS], the mark and what follows the instruction and its colon, padding included.
    left = [32 - len(read(f"{query.instruction}".rstrip(": ") + ":").ids) + 3 for query in batch]
    assert [counts(found, n) for n in range(5)] == [
        {**image, Modality.TEXT: left[0]},
        {Modality.TEXT: left[1]},
        {**image, Modality.TEXT: left[2]},
        {**image, Modality.TEXT: 32},
        {Modality.TEXT: 32},
    ]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    for number, query in enumerate(batch):
        names = made.query_tokens(query)
        assert len(names) == found.offsets[number + 1] - found.offsets[number]
        assert (names[0] == "[image 1/6]") == (query.image is not None)
    names = list(made.query_tokens(batch[0]))
    assert names[:PREFIX] == [f"[image {n}/6]" for n in range(1, 7)]
    assert names[PREFIX : PREFIX + 6] == [
        "[patch 1,1]", "[patch 1,2]", "[patch 1,3]", "[patch 1,4]", "[patch 2,1]", "[patch 2,2]",
    ]  # fmt: skip
    assert names[22:27] == ["[CLS]", "[unused0]", "what", "is", "the"]
    assert names[-1] == "[MASK]"
    assert not made.query_losses


def test_the_text_is_joined_as_m2kr_s_script_joins_it() -> None:
    text = preflmr(CHECKPOINT).engine.questions.text
    assert text(Query("q", " What? ")) == " What? "
    assert text(Query("q", "What?", instruction=" Find it: ")) == "Find it:  What? "
    assert text(Query("q", "What?", instruction="Find it.")) == "Find it.:  What? "
    assert text(Query("q", "a: b", instruction="Note: find it")) == "Note: find it:  a: b "
    assert text(Query("q", "", instruction="Find it")) == "Find it:   "
    assert text(Query("q", "a: b", instruction="  ")) == "a: b"


def test_only_an_instruction_is_masked() -> None:
    """A colon in a question ends no instruction where there is none."""
    read = preflmr(CHECKPOINT).engine.questions.read
    assert read(Query("q", "the river: a lake")).kept.all()
    masked = read(Query("q", "the river: a lake", instruction="find: the tower"))
    kept = masked.kept.tolist()
    # The first colon ends it, as in the reference.
    assert kept[:2] == [True, True]
    assert kept.index(False) == 2
    assert all(kept[kept.index(False) + masked.kept.tolist().count(False) :])


def test_the_image_and_the_text_of_a_query_both_move_its_patches(tmp_path: Path) -> None:
    made = preflmr(CHECKPOINT)
    first, other = picture(tmp_path / "a"), picture(tmp_path / "b", 3)

    def rows(text: str, image: Media, instruction: str | None = None) -> Any:
        found = made.encode_queries([Query("q", text, image, instruction)])
        return found.vectors[: PREFIX + PATCHES]

    plain = rows("the bird", first)
    assert np.abs(rows("the bird", other) - plain).max() > 0.05
    asked = rows("a mountain in winter", first)
    np.testing.assert_allclose(asked[:PREFIX], plain[:PREFIX], rtol=0, atol=1e-6)
    assert np.abs(asked[PREFIX:] - plain[PREFIX:]).max() > 0.01
    # Patches look at the instruction too, though its own rows do not count.
    assert np.abs(rows("the bird", first, "find it")[PREFIX:] - plain[PREFIX:]).max() > 0.01


def test_images_are_prepared_as_clip_prepares_them(tmp_path: Path) -> None:
    made = preflmr(CHECKPOINT)
    side = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side)
    for frame in pictures():
        (file,) = saved(tmp_path, [frame])
        (asked,) = made._asking.asked([Query("q", "", file)], made.engine)
        made.close()
        expected = processor(frame, return_tensors="pt", input_data_format="channels_last")
        assert asked.pixels is not None
        assert torch.equal(asked.pixels, expected["pixel_values"][0])


def test_a_black_picture_stands_for_none_where_that_is_asked_for(tmp_path: Path) -> None:
    (black,) = saved(tmp_path, [np.zeros((336, 336, 3), np.uint8)])
    asked = Query("q", "which bird?", None, INSTRUCTION)
    shown = preflmr(CHECKPOINT).encode_queries([Query("q", "which bird?", black, INSTRUCTION)])
    blank = preflmr(CHECKPOINT, blank_images=True)
    found = blank.encode_queries([asked])
    np.testing.assert_allclose(found.vectors, shown.vectors, rtol=0, atol=1e-6)
    assert len(blank.query_tokens(asked)) == len(found.vectors)
    none = preflmr(CHECKPOINT).encode_queries([asked])
    np.testing.assert_allclose(none.vectors, found.vectors[22:], rtol=0, atol=1e-6)


def test_what_a_query_lacks_is_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = preflmr(CHECKPOINT, on_damaged="skip-modality")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    gone = Media(tmp_path / "gone.png", "gone.png", 1)
    batch = [
        Query("long", "which river?", instruction="the lake " * 20),
        Query("longer", "which river?", instruction="the lake " * 30),
        Query("cut", "the lake " * 30, instruction="find it"),
        Query("broken", "the bird", Media(broken, broken.name, 10)),
        Query("gone", "the bird", gone),
    ]
    found = made.encode_queries(batch)
    made.encode_queries(batch[2:])
    made.query_tokens(batch[4])
    assert made.query_losses == {
        "query instruction cut": 2, "query cut": 1,
        "query image corrupt": 1, "query image missing": 1,
    }  # fmt: skip
    assert not made.losses
    # Nothing of it is masked, and of the others only what they lack is missing.
    assert [counts(found, n) for n in (0, 3)] == [{Modality.TEXT: 32}] * 2
    names = ("clamr_bench.preflmr", "clamr_bench.models")
    said = [record.message for record in caplog.records if record.name in names]
    assert len(said) == 4
    assert sum("without its picture" in one for one in said) == 2
    assert sum("query long:" in one for one in said) == 1
    assert sum("nothing of the instruction is masked" in one for one in said) == 1
    # Skipped or not, a query is asked with what is left of it.
    kept = preflmr(CHECKPOINT, on_damaged="skip-document").encode_queries(batch[3:4])
    np.testing.assert_allclose(kept.vectors, found[3:4].vectors, rtol=0, atol=1e-6)
    with pytest.raises(DataError, match=r"broken\.png"):
        preflmr(CHECKPOINT).encode_queries(batch[3:4])


# ----------------------------------------------------------------------- documents


def test_each_vector_of_a_document_knows_its_modality_and_place(tmp_path: Path) -> None:
    made = preflmr(CHECKPOINT)
    found = made.encode_documents(documents(tmp_path))
    assert [counts(found, n) for n in range(5)] == [
        {Modality.VIDEO: 18, Modality.ASR: 7, Modality.OCR: 9, Modality.DESCRIPTION: 5},
        {},
        {Modality.TEXT: 15},
        {Modality.IMAGE: 12, Modality.TEXT: 4},
        {Modality.VIDEO: 6},
    ]  # fmt: skip
    assert found.spans is not None
    first = found[:1].spans
    assert first is not None
    assert first[:18, 6].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (first[:18, 2:6] == [0, 0, 1, 1]).all()
    # "the bird, an animal" without its comma; marks have no place.
    assert first[18:25, :2].tolist()[2:6] == [[0, 3], [4, 8], [10, 12], [13, 19]]
    assert np.isnan(first[[18, 19, 24]]).all()


def test_texts_of_modalities_do_not_see_one_another() -> None:
    made = preflmr(CHECKPOINT)
    texts = {Modality.ASR: "the bird", Modality.OCR: "a lake"}
    both = made.encode_documents([Document("d", texts)])
    apart = [made.encode_documents([Document("d", {m: text})]) for m, text in texts.items()]
    joined = np.concatenate([one.vectors for one in apart])
    np.testing.assert_allclose(both.vectors, joined, rtol=0, atol=1e-6)


def test_long_texts_are_cut_and_counted() -> None:
    made = preflmr(CHECKPOINT, document_length=10)
    found = made.encode_documents(
        [
            Document("fits", {Modality.TEXT: "the bird " * 3 + "a"}),
            Document("over", {Modality.TEXT: "the bird " * 3 + "a lake", Modality.OCR: "a " * 8}),
        ]
    )
    assert made.losses == {"text cut": 1, "ocr cut": 1}
    assert counts(found, 1) == {Modality.OCR: 10, Modality.TEXT: 10}
    np.testing.assert_allclose(found.vectors[:10], found.vectors[20:], rtol=0, atol=1e-5)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    gone = (Media(tmp_path / "gone.png", "gone.png", 1),)
    document = Document("d", {Modality.OCR: "LIVE", Modality.ASR: "a"}, {Modality.IMAGE: gone})
    texts = preflmr(CHECKPOINT, document_images=False)
    assert counts(texts.encode_documents([document]), 0).keys() == {Modality.OCR, Modality.ASR}
    only = preflmr(CHECKPOINT, encode_modalities=["ocr"])
    assert counts(only.encode_documents([document]), 0).keys() == {Modality.OCR}
    with pytest.raises(DataError, match=r"gone\.png"):
        preflmr(CHECKPOINT).encode_documents([document])
    made = preflmr(CHECKPOINT, on_damaged="skip-modality")
    made.encode_documents([document])
    assert made.losses == {"image missing": 1}
    with pytest.raises(ValueError, match="neither the text encoder nor the image tower"):
        preflmr(CHECKPOINT, encode_modalities=["audio"])


def test_company_does_not_change_vectors(tmp_path: Path) -> None:
    made = preflmr(CHECKPOINT)
    for encode, batch in (
        (made.encode_documents, documents(tmp_path)),
        (made.encode_queries, queries(tmp_path)),
    ):
        together = encode(batch)
        made.engine.batches.most = 2
        small = encode(batch)
        made.engine.batches.most = 16
        alone = TokenEmbeddings.concatenate([encode([each]) for each in batch])
        for other in (small, alone):
            np.testing.assert_array_equal(together.offsets, other.offsets)
            np.testing.assert_array_equal(together.modalities, other.modalities)
            np.testing.assert_allclose(together.vectors, other.vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "The Tower, built 1889!", "Überschwemmung in Ägypten", "東京 tower", "홍수", "", " \t\n",
        "aﬁne\u00a0day", "x" * 101 + " lake", "it's 3:15 [now]", "\u200bzero \ufffd width\x00",
    ],
)  # fmt: skip
def test_word_pieces_are_those_of_bert(text: str) -> None:
    pieces = preflmr(CHECKPOINT).engine.cutter._pieces
    words = (CHECKPOINT / "context_tokenizer/vocab.txt").read_text().splitlines()
    bert = BertTokenizer(vocab={word: n for n, word in enumerate(words)}, do_lower_case=True)
    expected = bert(f". {text}", truncation=True, max_length=pieces.length)["input_ids"]
    expected[1] = words.index("[unused1]")
    assert pieces.read(text).ids == expected


def test_marks_in_a_text_are_plain_characters() -> None:
    made = preflmr(CHECKPOINT)
    names = made.query_tokens(Query("q", "[MASK] [SEP] it"))
    assert names[2] == "["
    assert names.count("[SEP]") == 1


def test_queries_are_decoded_by_workers_too(tmp_path: Path) -> None:
    made, batch = preflmr(CHECKPOINT, workers=1), queries(tmp_path)
    found = made.encode_queries(batch)
    made.close()
    expected = preflmr(CHECKPOINT).encode_queries(batch)
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_a_score_is_taken_apart_to_patches_and_frames(tmp_path: Path) -> None:
    made = preflmr(CHECKPOINT)
    asked = made.encode_queries(queries(tmp_path)[:1])
    read = made.encode_documents(documents(tmp_path)[:1])
    found = attribute(asked, read, made.settings.scoring)
    assert found.score == max_sim(asked, read).total[0, 0]
    names = made.query_tokens(queries(tmp_path)[0])
    assert len(names) == len(found.winners.parts)
    assert found.spans is not None
    of_frames = found.winners.modalities == Modality.VIDEO
    assert of_frames.any()
    assert not np.isnan(found.spans[of_frames, 6]).any()


# --------------------------------------------------------------------- a whole run


SAMPLE = ("--task", "multivent/sample", "--set", "multivent/sample.train_videos=2")
UNTRAINED = ("--set", "preflmr.initial_seed=0", "--set", "preflmr.frames=2")


def test_a_run_on_video_and_its_explanation(bench: Command, tmp_path: Path) -> None:
    outcome = bench("run", *SAMPLE, "--limit", "12", "--retriever", "preflmr/tiny", *UNTRAINED)
    assert outcome.status == 0, outcome.err
    (saved_run,) = ResultsStore(tmp_path / "results").runs()
    result = saved_run.result
    assert result.retriever.untrained
    assert result.retriever.address == "preflmr/tiny"
    assert result.attribution is not None
    assert 0 <= result.measures["nDCG@10"].mean <= 1
    shown = bench("explain", result.run_id, "--query", first_query(saved_run.folder))
    assert shown.status == 0, shown.err
    assert "[CLS]" in shown.out
    assert "[MASK]" in shown.out


def first_query(folder: Path) -> str:
    with gzip.open(folder / "run.trec.gz", "rt") as file:
        return file.readline().split()[0]


def test_a_run_on_questions_about_pictures(bench: Command, tmp_path: Path) -> None:
    run = ("run", "--task", "m2kr/sample", "--limit", "30", "--retriever", "preflmr/tiny")
    outcome = bench(*run, *UNTRAINED, "--set", "preflmr.query_length=10")
    assert outcome.status == 0, outcome.err
    (saved_run,) = ResultsStore(tmp_path / "results").runs()
    # Counts of queries reach the result.
    assert saved_run.result.data.losses["query instruction cut"] > 0
