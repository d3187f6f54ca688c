"""Documents and queries to token sequences, with the exact modality and source of every token.

A document is one chat turn: the system prompt, then frames, sound and texts, each behind its name.
Every piece is tokenised by itself, so that no token straddles two modalities, and a modality that
a document lacks leaves nothing behind. `retrievers.clamr.compat` has the reference's own stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness.types import Modality
from retrievers.clamr.settings import ClamrSettings
from retrievers.pictures import Picture
from retrievers.qwen.form import OMNI, TEXTS, Form, Marks
from retrievers.qwen.prompt import MelFeatures, Prompt, shifted
from retrievers.qwen.sequence import Content, Tokens, TokensBuilder
from retrievers.qwen.tokens import Vocabulary
from retrievers.qwen.vision import Patching

#: What stands before the content of a modality.
PREFIXES = {
    Modality.VIDEO: "Video: ",
    Modality.AUDIO: "Audio: ",
    Modality.OCR: "OCR: ",
    Modality.ASR: "ASR: ",
    Modality.DESCRIPTION: "Description: ",
    Modality.TEXT: "Text: ",
}


class ClamrPrompt(Prompt):
    """Makes CLaMR's sequences.

    Parameters
    ----------
    form, vocabulary, patching, mel, losses
        As for `retrievers.qwen.prompt.Prompt`.
    settings
        Lengths, prompts, pixels.
    """

    settings: ClamrSettings

    def __init__(
        self,
        form: Form,
        vocabulary: Vocabulary,
        settings: ClamrSettings,
        patching: Patching,
        mel: MelFeatures | None,
        losses: Counter[str],
    ) -> None:
        super().__init__(form, vocabulary, settings, patching, mel, settings.max_pixels, losses)
        #: The Omni form's media have names ("Video: "), the VL form's have none.
        self.names_media = form is OMNI
        system = form.system if settings.system_prompt is None else settings.system_prompt
        self.header = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
        self._header = self.turn(system)
        self._footer = vocabulary.encode_marked("<|im_end|>\n")

    def query(self, text: str, picture: Picture = None) -> Tokens:
        """Return a picture, ``Query: <text>`` and the augmentation tokens, which are never cut."""
        built = TokensBuilder()
        self.add_picture(built, picture)
        self.add_query(built, text)
        return built.build()

    def document(self, content: Content) -> list[Tokens]:
        """Return the document's sequences.

        One of all modalities; with ``contextualise: false`` one for each; none for a document
        without anything that the form reads.
        """
        media = [self._video, self._sound]
        parts = [part for make in media if (part := make(content))]
        texts = [
            self._text(modality, content.texts[modality])
            for modality in TEXTS
            if modality in content.texts
        ]
        if not parts and not texts:
            return []
        if self.settings.contextualise:
            return [self._framed([*parts, *texts])]
        # As the reference encodes them apart: media inside the chat turn, texts bare.
        return [*(self._framed([part]) for part in parts), *(_joined([text]) for text in texts)]

    def _framed(self, parts: list[Callable[[TokensBuilder], None]]) -> Tokens:
        def header(built: TokensBuilder) -> None:
            built.add(self._header)

        def footer(built: TokensBuilder) -> None:
            built.add(self._footer)

        return _joined([header, *parts, footer])

    def _video(self, content: Content) -> Callable[[TokensBuilder], None] | None:
        if not len(content.frames):
            return None
        patches, marks = self.patches(content.frames), self.form.video
        return self._media(
            Modality.VIDEO,
            marks,
            lambda built: built.add_video(
                self.ids(marks)[1], patches, content.seconds, content.numbers
            ),
        )

    def _sound(self, content: Content) -> Callable[[TokensBuilder], None] | None:
        marks, heard = self.form.audio, self.heard(content)
        if heard is None or marks is None:
            return None
        place = self.ids(marks)[1]
        return self._media(Modality.AUDIO, marks, lambda built: built.add_sound(place, *heard))

    def _media(
        self, modality: Modality, marks: Marks, places: Callable[[TokensBuilder], None]
    ) -> Callable[[TokensBuilder], None]:
        def part(built: TokensBuilder) -> None:
            if self.names_media:
                built.add(self.vocabulary.encode(PREFIXES[modality])[0], modality)
            built.add([self.ids(marks)[0]], modality)
            places(built)
            # It has seen the whole of the modality and no part of it: no source, no modality.
            built.add([self.ids(marks)[2]])

        return part

    def _text(self, modality: Modality, text: str) -> Callable[[TokensBuilder], None]:
        name = f" {PREFIXES[modality]}".removesuffix(" ")
        prefix = self.vocabulary.encode(name)[0]
        ids, offsets = self.vocabulary.encode(f" {text}")
        room = self.settings.length_of(modality) - len(prefix)
        if len(ids) > room:
            self.losses[f"{modality.label} cut"] += 1

        def part(built: TokensBuilder) -> None:
            built.add(prefix, modality)
            built.add_text(ids[:room], modality, shifted(offsets[:room], 1, len(text)))

        return part


def _joined(parts: list[Callable[[TokensBuilder], None]]) -> Tokens:
    built = TokensBuilder()
    for part in parts:
        part(built)
    return built.build()
