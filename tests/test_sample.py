"""What the sample is made of: facts, words, queries. Without files; see test_sample_files.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
import Stemmer
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.types import Modality
from tasks.multivent.tables import query_attributes
from tasks.sample.facts import HELD_OUT, Pool, QueryFacts, VideoFacts, satisfies
from tasks.sample.phrases import described, read_off, screen_lines, spoken
from tasks.sample.queries import SampleQuery, draw_queries
from tasks.sample.videos import TEXTS, draw_videos
from tasks.sample.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    CONTOURS,
    DIRECTIONS,
    ENGLISH,
    LANGUAGES,
    PITCHES,
    SHAPES,
    TIMBRES,
    wordings,
)

Videos = dict[str, tuple[VideoFacts, ...]]
Queries = dict[str, list[SampleQuery]]


@pytest.fixture(scope="module")
def videos() -> Videos:
    """The videos of the default sample."""
    return draw_videos(0, 100, 600)


@pytest.fixture(scope="module")
def queries(videos: Videos) -> Queries:
    """The queries of the default sample, those about sound among them."""
    test = draw_queries(0, "test", videos["test"], per_type=1, unambiguous=True, audio=True)
    train = draw_queries(0, "train", videos["train"], per_type=4, unambiguous=False, audio=True)
    return {"test": test, "train": train}


def words_of(modality: Modality) -> set[str]:
    """All wordings of a modality, in all languages."""
    return {
        word
        for language in LANGUAGES
        for pair in wordings(modality, language).values()
        for word in pair
    }


# --- vocabulary -----------------------------------------------------------------------------------


def test_there_are_40_concepts_a_modality_and_12_in_other_languages() -> None:
    for modality in TEXTS:
        assert len(ENGLISH[modality]) == 40
    for modality in (Modality.ASR, Modality.DESCRIPTION):
        for language in set(LANGUAGES) - {"english"}:
            assert len(wordings(modality, language)) == 12


def test_no_two_english_words_have_the_same_stem() -> None:
    pairs = [pair for modality in TEXTS for pair in ENGLISH[modality]]
    seen = (COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS)
    heard = (TIMBRES, PITCHES, CONTOURS)
    pairs += [pair for table in (*seen, *heard) for pair in table.values()]
    stems = Counter(Stemmer.Stemmer("english").stemWords([word for pair in pairs for word in pair]))
    assert [stem for stem, count in stems.items() if count > 1] == []


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"english"}))
def test_no_two_words_of_a_language_are_the_same(language: str) -> None:
    words = [
        word
        for modality in (Modality.ASR, Modality.DESCRIPTION)
        for pair in wordings(modality, language).values()
        for word in pair
    ]
    assert len(set(words)) == len(words) == 48


def test_screen_words_fit_the_screen_and_its_font() -> None:
    for pair in ENGLISH[Modality.OCR]:
        for word in pair:
            assert word.isascii()
            assert len(word) <= 12


# --- videos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "test", "train"), [(0, 100, 600), (1, 12, 24), (2, 300, 300)])
def test_nothing_of_test_occurs_in_training(seed: int, test: int, train: int) -> None:
    videos = draw_videos(seed, test, train)
    assert {split: len(rows) for split, rows in videos.items()} == {"test": test, "train": train}

    def combinations(split: str) -> Counter[tuple[str, str, str, str]]:
        return Counter(c for video in videos[split] for c in video.scene.combinations())

    def triples(split: str) -> Counter[tuple[Modality, frozenset[int]]]:
        return Counter((m, frozenset(v.concepts[m])) for v in videos[split] for m in TEXTS)

    def sounds(split: str) -> Counter[object]:
        return Counter(video.sound for video in videos[split])

    for keys in (combinations, triples, sounds):
        assert not set(keys("test")) & set(keys("train"))
        assert max(keys("test").values()) == 1
    assert not {video.id for video in videos["test"]} & {video.id for video in videos["train"]}


def test_held_out_pairs_are_in_test_only(videos: Videos) -> None:
    def pairs(split: str) -> set[tuple[str, str]]:
        return {(t.colour, t.shape) for video in videos[split] for t in video.scene.things}

    assert len(HELD_OUT) == 8
    assert not pairs("train") & HELD_OUT
    assert len(pairs("test") & HELD_OUT) >= 6
    assert len(pairs("train")) == 40


def test_languages_are_spread_as_promised(videos: Videos) -> None:
    for split, rows in videos.items():
        counts = Counter(video.language for video in rows)
        tenth = len(rows) // 10
        expected = dict.fromkeys(LANGUAGES, tenth) | {"english": 6 * tenth}
        assert counts == expected, split


def shared_facts(one: VideoFacts, other: VideoFacts) -> set[Modality]:
    things = [{(t.colour, t.shape) for t in video.scene.things} for video in (one, other)]
    shared = {m for m in TEXTS if set(one.concepts[m]) & set(other.concepts[m])}
    if things[0] & things[1]:
        shared.add(Modality.VIDEO)
    if any(a == b for a, b in zip(one.sound, other.sound, strict=True)):
        shared.add(Modality.AUDIO)
    return shared


def test_each_video_has_a_distractor_that_shares_a_fact_of_every_modality(videos: Videos) -> None:
    for video in videos["test"]:
        best = max(
            (shared_facts(video, other) for other in videos["test"] if other is not video), key=len
        )
        assert best == {*TEXTS, Modality.VIDEO, Modality.AUDIO}


def test_the_seed_decides(videos: Videos) -> None:
    assert draw_videos(0, 100, 600) == videos
    assert draw_videos(1, 100, 600)["test"] != videos["test"]
    assert draw_videos(0, 100, 30)["test"] == videos["test"]


# --- words ----------------------------------------------------------------------------------------


def known_words(text: str, vocabulary: Iterable[str]) -> set[str]:
    """Words of `vocabulary` in `text`: whole words, or substrings for Chinese and Korean."""
    spaced = " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])
    return {
        word for word in vocabulary if (f" {word} " in spaced if word[0] < "ᄀ" else word in text)
    }


def test_each_text_holds_its_three_words_and_no_other_vocabulary(videos: Videos) -> None:
    everything = set().union(*(words_of(modality) for modality in TEXTS))
    for video in videos["test"]:
        random = Random(0)
        texts = {
            Modality.ASR: " ".join(spoken(video, random)),
            Modality.OCR: " ".join(screen_lines(video, random)),
            Modality.DESCRIPTION: described(video, random),
        }
        for modality, text in texts.items():
            known = wordings(modality, video.language)
            chosen = zip(video.concepts[modality], video.wordings[modality], strict=True)
            assert known_words(text, everything) == {known[c][w] for c, w in chosen}


def test_ocr_misreads_some_lines_after_the_first_frame() -> None:
    lines = ("harbor", "taxi 42", "inn")
    read = [read_off(lines, 4, Random(seed)) for seed in range(300)]
    assert all(frames[0] == list(lines) for frames in read)
    wrong = [
        (line, said)
        for frames in read
        for frame in frames[1:]
        for line, said in zip(lines, frame, strict=True)
        if line != said
    ]
    assert 0.2 < len(wrong) / (300 * 3) < 0.4
    assert any(said.replace(" ", "") == line.replace(" ", "") for line, said in wrong)
    assert all(said.isascii() and said for _, said in wrong)
    assert not {word for _, said in wrong for word in said.split()} & words_of(Modality.OCR) - {
        *" ".join(lines).split()
    }


# --- queries --------------------------------------------------------------------------------------


def test_exactly_one_test_video_satisfies_each_test_query(videos: Videos, queries: Queries) -> None:
    for query in queries["test"]:
        found = [video.id for video in videos["test"] if satisfies(query.facts, video)]
        assert tuple(found) == query.relevant
        assert len(found) == 1


def test_all_training_videos_that_satisfy_a_query_are_relevant(
    videos: Videos, queries: Queries
) -> None:
    for query in queries["train"][::97]:
        found = [video.id for video in videos["train"] if satisfies(query.facts, video)]
        assert tuple(found) == query.relevant
        assert found


def test_each_type_has_its_queries(queries: Queries) -> None:
    counts = Counter(query_attributes(q.id)["query_type"] for q in queries["test"])
    assert set(counts) == {"video", "asr", "ocr", "description", "joint", "audio"}
    assert min(counts.values()) >= 90
    targets = Counter(query_attributes(q.id)["target"] for q in queries["test"])
    assert len([target for target in targets if "+" in target]) == 6
    assert len(queries["train"]) == 6 * 4 * 600


def test_a_query_asks_only_what_its_type_says(queries: Queries) -> None:
    everything = {modality: words_of(modality) for modality in TEXTS}
    for query in [*queries["test"], *queries["train"][::29]]:
        target = query_attributes(query.id)["target"]
        asked = {Modality.parse(part) for part in target.split("+")}
        assert set(query.facts.modalities) == asked
        for modality, vocabulary in everything.items():
            found = known_words(query.text, vocabulary)
            assert len(found) == len(query.facts.concepts.get(modality, ())), query


def test_a_joint_query_needs_both_of_its_facts(videos: Videos, queries: Queries) -> None:
    joint = [query for query in queries["test"] if len(query.facts.modalities) == 2]
    assert len(joint) >= 90
    for query in joint:
        for modality in query.facts.modalities:
            half = query.facts.only(modality)
            assert sum(satisfies(half, video) for video in videos["test"]) > 1


def test_a_query_words_something_in_another_way_than_its_video(
    videos: Videos, queries: Queries
) -> None:
    by_id = {video.id: video for video in videos["test"]}
    for query in queries["test"]:
        target = by_id[query.relevant[0]]
        same = 0
        for modality, concepts in query.facts.concepts.items():
            known = wordings(modality, query_attributes(query.id)["language"])
            used = dict(zip(target.concepts[modality], target.wordings[modality], strict=True))
            same += len(known_words(query.text, {known[c][used[c]] for c in concepts}))
        assert same < sum(map(len, query.facts.concepts.values())) or not query.facts.concepts


def test_speech_and_descriptions_are_asked_about_in_the_videos_language(
    videos: Videos, queries: Queries
) -> None:
    by_id = {video.id: video for video in videos["test"]}
    seen = set()
    for query in queries["test"]:
        language = query_attributes(query.id)["language"]
        if set(query.facts.modalities) <= {Modality.ASR, Modality.DESCRIPTION}:
            assert language == by_id[query.relevant[0]].language
        else:
            assert language == "english"
            assert query.text.isascii()
        seen.add(language)
    assert seen == set(LANGUAGES)


def test_sound_changes_no_other_query(videos: Videos, queries: Queries) -> None:
    silent = draw_queries(0, "test", videos["test"], per_type=1, unambiguous=True, audio=False)
    assert silent == queries["test"][: len(silent)]
    assert {q.facts.modalities for q in queries["test"][len(silent) :]} == {(Modality.AUDIO,)}


@given(st.data())
def test_both_asks_what_its_halves_ask(data: st.DataObject) -> None:
    videos = draw_videos(0, 40, 2)["test"]
    queries = draw_queries(0, "test", videos, per_type=1, unambiguous=False, audio=True)
    one, two = (data.draw(st.sampled_from(queries)).facts for _ in range(2))
    assume(not set(one.modalities) & set(two.modalities))
    both = one.both(two)
    assert set(both.modalities) == {*one.modalities, *two.modalities}
    for video in videos:
        assert satisfies(both, video) == (satisfies(one, video) and satisfies(two, video))
    found = [video for video in videos if satisfies(both, video)]
    assert Pool(videos).satisfying(both) == found


def test_the_pool_finds_what_an_exhaustive_look_finds(videos: Videos) -> None:
    pool = Pool(videos["test"])
    scene = videos["test"][0].scene
    thing = scene.things[0]
    for query in (
        QueryFacts(things=((thing.colour, thing.shape, None),)),
        QueryFacts(things=((thing.colour, thing.shape, None),), background=scene.background),
        QueryFacts(concepts={Modality.OCR: (3,)}),
        QueryFacts(concepts={Modality.OCR: (3,), Modality.ASR: (1,)}),
    ):
        assert pool.satisfying(query) == [v for v in videos["test"] if satisfies(query, v)]
