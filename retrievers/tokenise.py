"""Text -> terms, by script: what lexical retrievers compare.

Scripts that put spaces between words are cut into words and stemmed by their script's Snowball
algorithm; scripts that do not are cut into overlapping pairs of characters, which need no
dictionary. On MultiVENT's languages the two together found 2-3 of 3 inflected or unsegmented
query words in every language without a false match; whitespace alone found none in Russian,
Arabic and Chinese.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from operator import add
from typing import Literal

import Stemmer
from pydantic import Field, field_validator

from harness.errors import did_you_mean
from harness.settings import Settings

Script = Literal["arabic", "armenian", "cyrillic", "devanagari", "greek", "latin", "tamil"]
Cut = Literal["bigrams", "characters", "words"]

# Characters that carry no content of their own: soft hyphen, joiners, direction marks, byte order
# mark. U+200B (zero width space) is not among them: Thai and Khmer part words with it.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")

# Marks that writers leave out at will: accents that do not combine with their letter (Russian
# stress), Hebrew points, Arabic vowel signs and lengthening (U+0640), variation selectors. Vowel
# signs of Indic and South-East Asian scripts are part of the word and stay.
_OPTIONAL = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    "\u08d3-\u08e1\u08e3-\u08ff\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    "\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")

# Thai and Lao, Myanmar, Khmer; 々〆〇, Hiragana, Katakana, Bopomofo; Han. Whole blocks: what is not
# a letter in them never gets here.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_HANGUL = "\u1100-\u11ff\u3131-\u318f\ua960-\ua97f\uac00-\ud7ff"

_TERMS_KEPT = 1 << 17


class TokeniserSettings(Settings):
    """How text is cut into terms. Every choice changes what matches, so all are recorded."""

    normalise: bool = Field(
        True,
        description="Unicode NFKC and case folding; digits of all scripts as 0-9; without "
        "invisible characters, Arabic vowel signs and lengthening, and stress marks.",
    )
    stemmers: dict[Script, str] = Field(
        {
            "arabic": "arabic",
            "armenian": "armenian",
            "cyrillic": "russian",
            "devanagari": "hindi",
            "greek": "greek",
            "latin": "english",
            "tamil": "tamil",
        },
        description="Snowball algorithm for the words of each script; a script that is not named "
        "is not stemmed, {} turns stemming off.",
    )
    unspaced: Cut = Field(
        "bigrams",
        description="How Chinese, Japanese, Thai, Lao, Khmer and Burmese, written without spaces, "
        "are cut: overlapping pairs of characters (a lone character stays), single characters, "
        "or not at all (words).",
    )
    hangul: Cut = Field(
        "bigrams",
        description="How Korean words, which carry their particles, are cut: see unspaced.",
    )
    stopwords: list[str] = Field(
        [],
        description="Words to leave out, as written before stemming; they are normalised like "
        "text. What is cut into bigrams or characters is not looked up.",
    )

    @field_validator("stemmers")
    @classmethod
    def _algorithms_exist(cls, stemmers: dict[Script, str]) -> dict[Script, str]:
        known = Stemmer.algorithms()
        for script, algorithm in stemmers.items():
            if algorithm not in known:
                raise ValueError(
                    f"there is no Snowball algorithm {algorithm!r} (for {script}); there are "
                    f"{', '.join(known)}.{did_you_mean(algorithm, known)}"
                )
        return stemmers


class Tokeniser:
    """Turns a text into a list of terms.

    Symbols, punctuation and emoji part words and are no terms. A text without letters and digits
    has no terms.

    Parameters
    ----------
    settings
        What to do; the same settings give the same terms.
    """

    def __init__(self, settings: TokeniserSettings) -> None:
        self._normalise = settings.normalise
        self._words = _words_pattern()
        self._stemmers = {
            # Without a cache of its own: `_term` keeps what is frequent, and is faster.
            script.upper(): Stemmer.Stemmer(algorithm, 0)
            for script, algorithm in settings.stemmers.items()
        }
        clean = normalise if settings.normalise else str
        self._stopwords = frozenset(clean(word) for word in settings.stopwords)
        cuts = {_UNSPACED: settings.unspaced, _HANGUL: settings.hangul}
        self._cuts = {f"g{i}": cut for i, cut in enumerate(cuts.values()) if cut != "words"}
        classes = [chars for chars, cut in cuts.items() if cut != "words"]
        self._has_unspaced = re.compile(f"[{''.join(classes)}]") if classes else None
        groups = [f"(?P<{name}>[{chars}]+)" for name, chars in zip(self._cuts, classes)]
        self._parts = re.compile("|".join([*groups, f"[^{''.join(classes)}]+"])) if groups else None
        self._term = lru_cache(_TERMS_KEPT)(self._stem)

    def __call__(self, text: str) -> list[str]:
        """Return the terms of `text`, in order, with repetitions; none is empty."""
        if self._normalise:
            text = normalise(text)
        words = self._words.findall(text.replace("_", " "))
        if self._has_unspaced is None or not self._has_unspaced.search(text):
            return [term for term in map(self._term, words) if term]
        terms: list[str] = []
        for word in words:
            terms.extend(self._cut(word))
        return terms

    def _cut(self, word: str) -> list[str]:
        """Cut a run of letters and digits, perhaps of several scripts."""
        if self._parts is None or self._has_unspaced is None or not self._has_unspaced.search(word):
            return [term] if (term := self._term(word)) else []
        terms: list[str] = []
        for match in self._parts.finditer(word):
            part, cut = match.group(), self._cuts.get(match.lastgroup or "")
            if cut is None:
                terms.extend(filter(None, [self._term(part)]))
            elif cut == "characters" or len(part) == 1:
                terms.extend(part)
            else:
                terms.extend(map(add, part, part[1:]))
        return terms

    def _stem(self, word: str) -> str:
        """Return the term of one word; ``""`` for a stopword."""
        if word in self._stopwords:
            return ""
        stemmer = self._stemmers.get(_script(word))
        # Snowball's Arabic can take everything away; then the word itself stands.
        return (stemmer.stemWord(word) or word) if stemmer else word


def normalise(text: str) -> str:
    """Return `text` in the one form in which equal words are equal strings.

    NFKC and case folding as in Unicode's caseless matching (The Unicode Standard, section 3.13,
    D146, in composed form), then without optional marks. Doing it twice changes nothing.
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    text = _OPTIONAL.sub("", unicodedata.normalize("NFKC", text))
    # A mark that is gone may have stood between two parts of one letter.
    text = unicodedata.normalize("NFKC", text)
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), text)


@cache
def _words_pattern() -> re.Pattern[str]:
    r"""Return the pattern of a word: letters and digits, and the marks that belong to them.

    ``\w`` alone parts Hindi and Thai words at their vowel signs. The marks are looked up in the
    Unicode table of this Python, in 15 ms, once. They are tried only where ``\w`` ends, and as
    ranges: one class of letters and single marks was 6 times slower on English and Russian.
    """
    marks = [
        code
        for code in range(0x300, 0x1F000)
        if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me")
    ]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    listed = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return re.compile(rf"\w+(?:[{listed}]+\w*)*")


def _script(word: str) -> str:
    """Return the first word of the Unicode name of the first letter: ``LATIN``, ``ARABIC``."""
    letter = next(filter(str.isalpha, word), "")
    return unicodedata.name(letter, "").partition(" ")[0] if letter else ""
