"""Queries with images: who takes which, what is read of them, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from harness.dataset import DatasetWriter
from harness.errors import DataError
from harness.late_interaction import max_sim
from harness.registry import make_retriever
from harness.results import ResultsStore
from harness.retriever import QueryKind
from harness.types import Document, Media, Modality, Query
from retrievers.qwen.form import OMNI, VL, Form
from retrievers.qwen.sequence import Content
from retrievers.qwen.tokens import Vocabulary
from retrievers.st.encoder import SentenceTransformers
from retrievers.st.settings import SentenceSettings
from tests.clamr_cases import clamr, pooled
from tests.clip_cases import clip, siglip
from tests.colqwen_cases import colqwen
from tests.conftest import Command
from tests.test_clamr_sequences import prompt

Make = Callable[..., Any]
VOCABULARY: Vocabulary = prompt().vocabulary
ASKED = "Say what the picture shows:"

qwen = pytest.mark.parametrize(
    ("make", "weights"),
    [(clamr, "tiny"), (clamr, "tiny-omni"), (colqwen, "tiny"), (colqwen, "tiny-omni"),
     (colqwen, "tiny-2")],
)  # fmt: skip


def picture(seed: int, height: int = 56, width: int = 84) -> NDArray[np.uint8]:
    """Twelve squares of 28 pixels a side and more, each of one colour."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST))


def image(folder: Path, seed: int) -> Media:
    path = folder / f"{seed}.png"
    Image.fromarray(picture(seed)).save(path)
    return Media(path, path.name, path.stat().st_size)


@pytest.fixture
def asked(tmp_path: Path) -> list[Query]:
    """A text, an image, and both, each once."""
    return [
        Query("text", "what does the river carry?"),
        Query("image", "", image(tmp_path, 1), ASKED),
        Query("both", "which bird is it?", image(tmp_path, 2), ASKED),
    ]


# --- sequences of the Qwen family ----------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.sampled_from([VL, OMNI]), st.integers(1, 200), st.integers(1, 200))
def test_a_picture_stands_before_the_query_and_changes_nothing_of_it(
    text: str, form: Form, height: int, width: int
) -> None:
    plain = prompt(form).query(text)
    with_picture = prompt(form).query(text, picture(0, height, width))
    count = len(with_picture) - len(plain)
    assert with_picture.ids[count:].tolist() == plain.ids.tolist()
    np.testing.assert_array_equal(with_picture.spans[count:], plain.spans)
    marks = form.image
    first, *places, last = with_picture.ids[:count].tolist()
    assert (first, last) == (VOCABULARY.id(marks.begin), VOCABULARY.id(marks.end))
    assert set(places) == {VOCABULARY.id(marks.place)}
    assert with_picture.patches is not None
    assert with_picture.patches.tokens == len(places)
    assert (with_picture.modalities[:count] == Modality.IMAGE).all()
    assert (with_picture.modalities[count:] == Modality.TEXT).all()
    boxes = with_picture.spans[1 : count - 1]
    areas = (boxes[:, 4] - boxes[:, 2]) * (boxes[:, 5] - boxes[:, 3])
    assert areas.sum() == pytest.approx(1.0, abs=1e-4)
    assert (boxes[:, 6] == 0).all()


def test_no_text_can_claim_the_place_of_a_picture() -> None:
    marks = VL.image
    forged = f"{marks.begin}{marks.place}{marks.end}"
    found = prompt(VL).query(forged, picture(0))
    assert found.patches is not None
    assert found.ids.tolist().count(VOCABULARY.id(marks.place)) == found.patches.tokens


@qwen
def test_tokens_have_texts_and_places(make: Make, weights: str, asked: list[Query]) -> None:
    encoder = make(weights)
    made = encoder.encode_queries(asked)
    for place, query in enumerate(asked):
        texts = encoder.query_tokens(query)
        assert len(texts) == int(made.offsets[place + 1] - made.offsets[place])
        assert ("[image 1,1]" in texts) == (query.image is not None)
    shown = [text for text in encoder.query_tokens(asked[2]) if text.startswith("[image ")]
    assert len(set(shown)) == len(shown) > 1
    joined = "".join(encoder.query_tokens(asked[2]))
    assert ASKED.split()[-1] in joined
    assert "bird" in joined


@qwen
def test_the_same_each_time_and_in_any_company(
    make: Make, weights: str, asked: list[Query]
) -> None:
    encoder = make(weights)
    made, again = encoder.encode_queries(asked), make(weights).encode_queries(asked)
    assert made.vectors.tobytes() == again.vectors.tobytes()
    for place, query in enumerate(asked):
        alone = encoder.encode_queries([query])
        own = made.vectors[made.offsets[place] : made.offsets[place + 1]]
        np.testing.assert_allclose(own, alone.vectors, rtol=0, atol=1e-5)


@qwen
def test_what_is_seen_is_read_and_an_instruction_only_beside_it(
    make: Make, weights: str, asked: list[Query], tmp_path: Path
) -> None:
    encoder = make(weights)

    def vectors(text: str, seed: int | None, said: str | None = None) -> bytes:
        seen = None if seed is None else image(tmp_path, seed)
        made: bytes = encoder.encode_queries([Query("q", text, seen, said)]).vectors.tobytes()
        return made

    bird = "which bird is it?"
    assert vectors(bird, None, ASKED) == vectors(bird, None)
    assert len({vectors(bird, 1), vectors(bird, 2), vectors(bird, 1, ASKED)}) == 3
    assert vectors("", 1) != vectors("", 2)


@pytest.mark.parametrize("make", [clamr, colqwen, pooled])
def test_gradients_reach_the_vision_tower(make: Make, asked: list[Query]) -> None:
    encoder = make("tiny")
    encoder.module.requires_grad_(True)
    vectors, numbers = encoder.forward_queries(asked)
    assert (vectors[numbers == 0] == 0).all()
    if make is not pooled:
        assert set(numbers.unique().tolist()) == {0, int(Modality.IMAGE), int(Modality.TEXT)}
        inference = encoder.encode_queries(asked)
        for place in range(3):
            own = inference.vectors[inference.offsets[place] : inference.offsets[place + 1]]
            found = vectors[place, : len(own)].detach().numpy()
            np.testing.assert_allclose(found, own, rtol=0, atol=1e-4)

    def reached(loss: torch.Tensor) -> float:
        encoder.module.zero_grad()
        loss.backward(retain_graph=True)
        found = [
            float(parameter.grad.abs().sum())
            for name, parameter in encoder.module.named_parameters()
            if ".visual." in name and parameter.grad is not None
        ]
        return sum(found)

    weights = torch.arange(vectors.shape[-1]) / vectors.shape[-1]
    assert reached((vectors[1] * weights).sum()) > 0
    assert reached((vectors[2] * weights).sum()) > 0
    assert reached((vectors[0] * weights).sum()) == 0
    # The last token comes after the picture: what it says depends on it.
    last = int((numbers[2] != 0).sum()) - 1
    assert reached((vectors[2, last] * weights).sum()) > 0


def test_the_references_own_stream_takes_a_picture_too(asked: list[Query]) -> None:
    encoder = clamr("tiny", compat=True)
    made = encoder.encode_queries(asked)
    lengths = np.diff(made.offsets)
    assert lengths[2] > lengths[0]
    assert len(encoder.query_tokens(asked[2])) == lengths[2]


# --- passages ------------------------------------------------------------------------------------


def test_clamr_reads_plain_texts_last_behind_their_name() -> None:
    texts = {Modality.TEXT: "a heron", Modality.OCR: "LIVE"}
    (tokens,) = prompt().document(Content(texts=texts))
    (alone,) = prompt().document(Content(texts={Modality.OCR: "LIVE"}))
    chosen = tokens.modalities == Modality.TEXT
    assert VOCABULARY.decode(tokens.ids[chosen].tolist()) == " Text: a heron"
    rest = tokens.ids[~chosen].tolist()
    assert rest == alone.ids.tolist()


@pytest.mark.parametrize(
    "make",
    [lambda: clamr("tiny"), lambda: clamr("tiny", contextualise=False), lambda: colqwen("tiny"),
     lambda: clip(), lambda: siglip(), lambda: sentences()],
)  # fmt: skip
def test_passages_have_vectors_of_their_own(make: Callable[[], Any]) -> None:
    encoder = make()
    passages = [Document(f"p{n}", {Modality.TEXT: text}) for n, text in enumerate("ab")]
    made = encoder.encode_documents(passages)
    assert (np.diff(made.offsets) > 0).all()
    assert set(made.modalities.tolist()) <= {0, int(Modality.TEXT)}
    asked = encoder.encode_queries([Query("q", "a")])
    scores = max_sim(asked, made).total[0]
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_the_references_own_stream_has_plain_texts_only_where_they_are() -> None:
    encoder = clamr("tiny", compat=True)
    plain = Document("d", {Modality.OCR: "LIVE"})
    both = Document("d", {Modality.OCR: "LIVE", Modality.TEXT: "a heron"})
    made, more = encoder.encode_documents([plain]), encoder.encode_documents([both])
    assert len(more.vectors) > len(made.vectors)


# --- CLIP and its like ---------------------------------------------------------------------------


def sentences(**values: Any) -> SentenceTransformers:
    made = SentenceSettings(**{"device": "cpu", "workers": 0, **values})
    return SentenceTransformers("sentence-transformers", "tiny", made)


def mclip() -> Any:
    return make_retriever("mclip/tiny", {"device": "cpu", "workers": 0}).encoder  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [clip, siglip, mclip])
def test_an_image_asks_by_its_own_vector(make: Make, tmp_path: Path, asked: list[Query]) -> None:
    encoder = make()
    text, shown = asked[0], asked[1]
    assert shown.image is not None
    seen = encoder.encode_documents([Document("d", media={Modality.IMAGE: (shown.image,)})])
    found = encoder.encode_queries([text, shown, text])
    assert np.diff(found.offsets).tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.vectors[1], seen.vectors[0], atol=1e-6)
    np.testing.assert_allclose(
        found.vectors[0], encoder.encode_queries([text]).vectors[0], atol=1e-6
    )
    bare = Query("bare", "", shown.image)
    np.testing.assert_array_equal(
        encoder.encode_queries([bare]).vectors, encoder.encode_queries([shown]).vectors
    )


def test_clip_is_trained_by_queries_that_are_images(asked: list[Query]) -> None:
    encoder = clip()
    vectors, numbers = encoder.forward_queries(asked[:2])
    assert numbers[:, 0].tolist() == [int(Modality.TEXT), int(Modality.IMAGE)]
    np.testing.assert_allclose(
        vectors[:, 0].detach().numpy(), encoder.encode_queries(asked[:2]).vectors, atol=1e-5
    )
    vectors[1].sum().backward()
    grads = {
        name.partition(".")[0]: float(p.grad.abs().sum())
        for name, p in encoder.module.named_parameters()
        if p.grad is not None
    }
    assert grads.get("vision_model", 0) > 0
    assert grads.get("text_model", 0) == 0


# --- damage --------------------------------------------------------------------------------------


def gone(query: Query) -> Query:
    assert query.image is not None
    query.image.path.unlink()
    return query


@pytest.mark.parametrize("make", [lambda **v: clamr("tiny", **v), lambda **v: clip("tiny", **v)])
def test_a_picture_that_is_not_there(make: Make, asked: list[Query]) -> None:
    lost = gone(asked[1])
    with pytest.raises(DataError, match=r"1\.png"):
        make().encode_queries([asked[0], lost])
    for policy in ("skip-modality", "skip-document"):
        encoder = make(on_damaged=policy)
        for _ in range(2):
            made = encoder.encode_queries([asked[0], lost])
        assert np.diff(made.offsets).tolist()[1] == 0
        assert dict(encoder.query_losses) == {"query image missing": 1}
        vectors, numbers = encoder.forward_queries([asked[0], lost])
        assert (numbers[1] == 0).all()
        assert torch.isfinite(vectors).all()


def test_a_question_is_asked_without_its_picture(asked: list[Query]) -> None:
    lost = gone(asked[2])
    encoder = clamr("tiny", on_damaged="skip-modality")
    made = encoder.encode_queries([lost])
    told = encoder.encode_queries([Query("both", lost.text)])
    assert made.vectors.tobytes() == told.vectors.tobytes()
    assert dict(encoder.losses) == {}


# --- runs ----------------------------------------------------------------------------------------

PASSAGES = ("a heron by the river", "a market in winter", "the old bridge and its tower")


def store(folder: Path, kinds: set[QueryKind], number: int = 4) -> Path:
    """A store of ``m2kr/sample``: passages, and queries of the given kinds."""
    (folder / "pictures").mkdir(parents=True)
    queries = []
    for n in range(number):
        for kind in sorted(kinds):
            text = "" if kind is QueryKind.IMAGE else PASSAGES[n % len(PASSAGES)].split()[1]
            seen = None if kind is QueryKind.TEXT else image(folder / "pictures", n)
            said = None if kind is QueryKind.TEXT else ASKED
            queries.append(Query(f"{kind.value}-{n}", text, seen, said))
    documents = [Document(f"p{n}", {Modality.TEXT: text}) for n, text in enumerate(PASSAGES)]
    qrels = {query.id: {f"p{n % len(PASSAGES)}": 1} for n, query in enumerate(queries)}
    with DatasetWriter(
        folder / "store", task="m2kr/sample", task_version="1", media_roots=[folder / "pictures"]
    ) as writer:
        writer.write_split("test", documents, queries, qrels)
    return folder / "store"


TEXT, IMAGE, BOTH = QueryKind.TEXT, QueryKind.IMAGE, QueryKind.IMAGE_TEXT
#: Which kinds each takes.
TAKES: dict[str, set[QueryKind]] = {
    "bm25-text": {TEXT, BOTH},
    "sentence-transformers/tiny": {TEXT, BOTH},
    "sentence-transformers-sparse/tiny": {TEXT, BOTH},
    "clip/tiny": {TEXT, IMAGE},
    "siglip/tiny": {TEXT, IMAGE},
    "mclip/tiny": {TEXT, IMAGE},
    "clamr/tiny": {TEXT, IMAGE, BOTH},
    "clamr-pooled/tiny": {TEXT, IMAGE, BOTH},
    "colqwen/tiny": {TEXT, IMAGE, BOTH},
    "random": {TEXT, IMAGE, BOTH},
}


def run(bench: Command, folder: Path, *retrievers: str, options: tuple[str, ...] = ()) -> Any:
    named = [word for retriever in retrievers for word in ("--retriever", retriever)]
    quiet = [
        f"{name}.workers=0"
        for name in {retriever.partition("/")[0] for retriever in retrievers}
        if not name.startswith(("bm25", "random", "fused")) and not name.endswith("sparse")
    ]
    chosen = [word for setting in quiet for word in ("--set", setting)]
    return bench("run", "--task", "m2kr/sample", "--data", folder, *named, *chosen, *options)


@pytest.mark.parametrize("retriever", TAKES)
def test_each_takes_its_kinds_and_refuses_the_others(
    bench: Command, tmp_path: Path, retriever: str
) -> None:
    able = make_retriever(retriever).capabilities.query_kinds
    assert able == TAKES[retriever]
    taken = run(bench, store(tmp_path / "taken", TAKES[retriever]), retriever)
    assert taken.status == 0, taken.err
    for kind in set(QueryKind) - TAKES[retriever]:
        refused = run(bench, store(tmp_path / kind.name, {TEXT, kind}), retriever)
        refused.fails(f"{retriever!r} takes no {kind.value} queries")


def test_pictures_that_nobody_looks_at_are_counted(bench: Command, tmp_path: Path) -> None:
    folder = store(tmp_path / "data", {TEXT, BOTH})
    readers = ("bm25-text", "sentence-transformers/tiny", "sentence-transformers-sparse/tiny")
    done = run(bench, folder, *readers, "colqwen/tiny")
    assert done.status == 0, done.err
    assert done.out.count("query images not read 4") == 3
    results = {
        saved.result.retriever.address: saved.result
        for saved in ResultsStore(tmp_path / "results").runs()
    }
    for name in readers:
        assert results[name].data.losses == {"query images not read": 4}
    assert results["colqwen/tiny"].data.losses == {}
    limited = run(bench, folder, "bm25-text", options=("--limit", "3"))
    assert "query images not read 2" in limited.out  # every second one has an image


def test_the_question_alone_is_read(bench: Command, tmp_path: Path) -> None:
    """Neither image nor instruction changes a ranking of those that read texts."""
    from harness.documents import ListedDocuments
    from harness.workspace import Workspace

    documents = [Document(f"p{n}", {Modality.TEXT: text}) for n, text in enumerate(PASSAGES)]
    (tmp_path / "pictures").mkdir()
    plain = Query("q", "the tower by the river")
    shown = Query("q", plain.text, image(tmp_path / "pictures", 1), "market winter")
    for name in ("bm25-text", "sentence-transformers/tiny", "sentence-transformers-sparse/tiny"):
        retriever = make_retriever(name)
        retriever.index(ListedDocuments(documents), Workspace(tmp_path / name, {"name": name}))
        [told], [asked] = (retriever.search([query], 3).values() for query in (plain, shown))
        assert (told.documents, told.scores.tolist()) == (asked.documents, asked.scores.tolist())


def test_a_fusion_takes_what_all_its_parts_take(bench: Command, tmp_path: Path) -> None:
    parts = ("--set", "fused.parts=[bm25-text,random]")
    both = run(bench, store(tmp_path / "both", {TEXT, BOTH}), "fused", options=parts)
    assert both.status == 0, both.err
    assert "query images not read 4" in both.out
    run(bench, store(tmp_path / "image", {IMAGE}), "fused", options=parts).fails("no image queries")


def test_a_lost_picture_in_a_run(bench: Command, tmp_path: Path) -> None:
    """By the policy a query without anything finds nothing, and the result says so."""
    folder = store(tmp_path / "data", {IMAGE})
    (tmp_path / "data/pictures/0.png").unlink()
    run(bench, folder, "clamr/tiny").fails("0.png", "--on-damaged")
    done = run(bench, folder, "clamr/tiny", options=("--on-damaged", "skip-modality"))
    assert done.status == 0, done.err
    assert "query image missing 1" in done.out
