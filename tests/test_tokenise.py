from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.settings import parse_model
from retrievers.tokenise import Tokeniser, TokeniserSettings, normalise

DEFAULT = Tokeniser(TokeniserSettings())

# Any Unicode, and text dense in what normalisation and cutting treat specially.
_SPECIAL = (
    "aéİßſŉǅΆς\u0345ᾳёй\u0301\u0308\u0640\u064e\u200d\u200c\u00ad\ufeff٢۳१①²ﬁＡ_'-"
    "北ー々か\u3099ｶﾞ한\u1112\u1161\u11ab가สวักีक\u093f\u094dமి🔥👨\U0001f3fb\ufe0f"
)
TEXTS = st.one_of(st.text(), st.text(alphabet=_SPECIAL))


def with_settings(**settings: object) -> Tokeniser:
    return Tokeniser(parse_model(TokeniserSettings, settings, "setting"))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("2019 Hong Kong Protests", ["2019", "hong", "kong", "protest"]),
        ("don't #black_lives_matter", ["don", "t", "black", "live", "matter"]),
        ("Землетрясения в Турции", ["землетрясен", "в", "турц"]),
        ("2019年香港抗议活动", ["2019", "年香", "香港", "港抗", "抗议", "议活", "活动"]),
        ("코로나19 바이러스", ["코로", "로나", "19", "바이", "이러", "러스"]),
        ("الأحداث في لبنان", ["احداث", "في", "لبنان"]),
        ("東京オリンピック", ["東京", "京オ", "オリ", "リン", "ンピ", "ピッ", "ック"]),
        ("สวัสดี 2020", ["สว", "วั", "ัส", "สด", "ดี", "2020"]),
        ("हिन्दी", ["हिन्द"]),
        ("雨", ["雨"]),
        ("美國은", ["美國", "은"]),
        ("", []),
        (" \n\t", []),
        ("👨‍👩‍👧 🔥 !?… —", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert DEFAULT(text) == terms


@pytest.mark.parametrize(
    ("query", "text", "other"),
    [
        pytest.param("protest", "thousands of protesters protested", "a cooking show", id="en"),
        pytest.param("землетрясение", "после землетрясений в стране", "рецепт пирога", id="ru"),
        pytest.param("الزلزال", "ضرب زلزال قوي البلاد", "وصفة كعكة", id="ar"),
        pytest.param("地震", "土耳其发生强烈地震后", "足球比赛集锦", id="zh"),
        pytest.param("지진", "강한 지진이 발생했다", "축구 경기", id="ko"),
        pytest.param("elecciones", "la elecciones de 2019", "una receta", id="es"),
    ],
)
def test_inflected_and_unsegmented_words_match(query: str, text: str, other: str) -> None:
    terms = set(DEFAULT(query))
    assert terms
    assert terms & set(DEFAULT(text))
    assert not terms & set(DEFAULT(other))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("ＦＵＬＬ width", "full WIDTH"),
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("كِتَــــاب", "كتاب"),
        ("ﻛﺘﺎﺏ", "كتاب"),
        ("٢٠١٩", "2019"),
        ("за\u0301мок", "замок"),
        ("ёлка", "елка"),
        ("co\u00adoperate", "cooperate"),
        ("می\u200cخواهم", "میخواهم"),
        ("ｶﾞｽ爆発", "ガス爆発"),
        ("\u1112\u1161\u11ab국", "한국"),
        ("İstanbul", "istanbul"),
    ],
)
def test_ways_of_writing_one_word(one: str, same: str) -> None:
    assert DEFAULT(one) == DEFAULT(same) != []


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TEXTS)
def test_canonically_equal_texts_have_equal_terms(text: str) -> None:
    assert DEFAULT(unicodedata.normalize("NFD", text)) == DEFAULT(
        unicodedata.normalize("NFC", text)
    )


@given(TEXTS, st.sampled_from(["bigrams", "characters", "words"]), st.booleans())
def test_any_text_gives_terms_without_gaps(text: str, cut: str, normalised: bool) -> None:
    tokenise = with_settings(unspaced=cut, hangul=cut, normalise=normalised)
    terms = tokenise(text)
    assert all(terms)
    assert not any(character.isspace() for term in terms for character in term)
    # Nothing that says something is lost: letters and digits give terms.
    shown = normalise(text) if normalised else text
    assert bool(terms) == any(character.isalnum() for character in shown)


@given(TEXTS, TEXTS)
def test_texts_are_cut_independently(one: str, two: str) -> None:
    assert DEFAULT(f"{one}\n{two}") == DEFAULT(one) + DEFAULT(two)


def test_settings_choose_the_terms() -> None:
    assert with_settings(stemmers={})("Protests в Турции") == ["protests", "в", "турции"]
    assert with_settings(stemmers={"latin": "spanish"})("elección elecciones") == ["eleccion"] * 2
    assert with_settings(unspaced="characters")("香港 한국") == ["香", "港", "한국"]
    assert with_settings(unspaced="words")("香港抗议 한국인") == ["香港抗议", "한국", "국인"]
    assert with_settings(hangul="words")("香港抗 한국인이") == ["香港", "港抗", "한국인이"]
    assert with_settings(hangul="words", unspaced="words")("香港抗 한국인") == ["香港抗", "한국인"]
    assert with_settings(normalise=False, stemmers={})("Ｆull ٢") == ["Ｆull", "٢"]
    assert with_settings(stopwords=["The", "в"])("THE protest в Турции") == ["protest", "турц"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stemmers": {"latin": "englich"}}, "Did you mean 'english'"),
        ({"stemmers": {"klingon": "english"}}, "klingon"),
        ({"unspaced": "trigrams"}, "trigrams"),
        ({"stemmer": "english"}, "Did you mean 'stemmers'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_settings(**settings)
