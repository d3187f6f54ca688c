"""Documents and queries to the sequences that the published ColQwen models were trained on.

Every page, sound, text and query is a sequence by itself. ColQwen2 and ColQwen2.5 wrap a page into
one turn and give texts and queries bare; ColQwen-Omni wraps all into a chat whose answer is about
to begin (colpali-engine, up to 0.3.10 for the former two).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.types import TEXT_MODALITIES, Modality
from retrievers.colqwen.settings import ColQwenSettings
from retrievers.pictures import Picture
from retrievers.qwen.form import Form, Marks
from retrievers.qwen.prompt import MelFeatures, Prompt
from retrievers.qwen.sequence import Content, Tokens, TokensBuilder
from retrievers.qwen.tokens import Vocabulary
from retrievers.qwen.vision import Patching

#: Around a page of ColQwen2 and ColQwen2.5.
_OPEN, _CLOSE = "<|im_start|>user\n", "Describe the image.<|im_end|><|endoftext|>"
#: What ColQwen-Omni is asked about a page, a video and a sound.
_ASKED = "Describe the content."
#: Ends each sequence of ColQwen-Omni.
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"

#: Most tokens of a page: of ColQwen2 and ColQwen2.5, and of ColQwen-Omni (its model card).
_MOST_TOKENS = (768, 1024)

_Piece = Callable[[TokensBuilder], None]


class ColQwenPrompt(Prompt):
    """Makes ColQwen's sequences.

    Parameters
    ----------
    form, vocabulary, settings, patching, mel, losses
        As for `retrievers.qwen.prompt.Prompt`.

    Raises
    ------
    UsageError
        If the settings ask for what the form was not published with.
    """

    settings: ColQwenSettings

    def __init__(
        self,
        form: Form,
        vocabulary: Vocabulary,
        settings: ColQwenSettings,
        patching: Patching,
        mel: MelFeatures | None,
        losses: Counter[str],
    ) -> None:
        hears = form.audio is not None
        most = settings.max_pixels or _MOST_TOKENS[hears] * patching.factor**2
        super().__init__(form, vocabulary, settings, patching, mel, most, losses)
        #: Only ColQwen-Omni was trained on chats.
        self._chats = hears
        if settings.frames_as == "video" and not self._chats:
            raise UsageError(
                "frames_as = video: ColQwen2 and ColQwen2.5 were trained on pages alone. Leave the "
                "setting out, or take ColQwen-Omni weights."
            )
        if settings.compat and self._chats:
            raise UsageError(
                "compat = true reproduces transformers' own ColQwen2 class, which has no Omni "
                "form: leave the setting out."
            )
        if self._chats:
            opened, answer = self.turn(form.system), vocabulary.encode_marked(_ANSWER)
            self._bare = opened, answer
            self._seen = opened, [*vocabulary.encode_marked(_ASKED), *answer]
        else:
            self._bare = [], []
            self._seen = vocabulary.encode_marked(_OPEN), vocabulary.encode_marked(_CLOSE)

    def query(self, text: str, picture: Picture = None) -> Tokens:
        """Return a picture, ``Query: <text>`` and the augmentation tokens, which are never cut."""
        before, after = self._bare
        built = TokensBuilder()
        built.add(before, Modality.TEXT)
        self.add_picture(built, picture, flat=self.settings.compat)
        self.add_query(built, text)
        built.add(after, Modality.TEXT)
        if self.settings.compat:
            built.add(self.vocabulary.encode("\n")[0], Modality.TEXT)
        return built.build()

    def document(self, content: Content) -> list[Tokens]:
        """Return a sequence for each page, sound and text of the document."""
        made = []
        if self.settings.frames_as == "video" and len(content.frames):
            made.append(self._video(content))
        else:
            unknown = [math.nan] * len(content.frames)
            places = zip([*content.seconds, *unknown], [*content.numbers, *unknown], strict=False)
            for frame, place in zip(content.frames, places, strict=False):
                made.append(self._page(frame, Modality.VIDEO, *place))
        made += [
            self._page(image, Modality.IMAGE, number=number)
            for number, image in enumerate(content.images)
        ]
        sound = self._sound(content)
        made += [] if sound is None else [sound]
        made += [
            self._text(modality, content.texts[modality])
            for modality in TEXT_MODALITIES
            if modality in content.texts
        ]
        return made

    def _page(
        self,
        frame: NDArray[np.uint8],
        modality: Modality,
        second: float = math.nan,
        number: float = math.nan,
    ) -> Tokens:
        patches, marks = self.patches([frame]), self.form.image
        place, flat = self.ids(marks)[1], self.settings.compat
        return self._wrapped(
            modality,
            marks,
            lambda built: built.add_still(place, patches, modality, second, number, flat=flat),
        )

    def _video(self, content: Content) -> Tokens:
        patches, marks = self.patches(content.frames), self.form.video
        place = self.ids(marks)[1]
        return self._wrapped(
            Modality.VIDEO,
            marks,
            lambda built: built.add_video(place, patches, content.seconds, content.numbers),
        )

    def _sound(self, content: Content) -> Tokens | None:
        marks, heard = self.form.audio, self.heard(content)
        if marks is None or heard is None:
            return None
        place = self.ids(marks)[1]
        return self._wrapped(Modality.AUDIO, marks, lambda built: built.add_sound(place, *heard))

    def _text(self, modality: Modality, text: str) -> Tokens:
        ids, offsets = self.vocabulary.encode(text)
        room = self.settings.length_of(modality)
        if len(ids) > room:
            self.losses[f"{modality.label} cut"] += 1
        return self._between(
            self._bare, modality, lambda built: built.add_text(ids[:room], modality, offsets[:room])
        )

    def _wrapped(self, modality: Modality, marks: Marks, content: _Piece) -> Tokens:
        """Return media between their marks and what is asked about them."""
        begin, _, end = self.ids(marks)
        before, after = self._seen
        return self._between(([*before, begin], [end, *after]), modality, content)

    def _between(
        self, around: tuple[list[int], list[int]], modality: Modality, content: _Piece
    ) -> Tokens:
        """Return a sequence of one modality; by default all of its tokens count as that."""
        before, after = around
        counted = modality if self.settings.template_tokens else None
        built = TokensBuilder()
        built.add(before, counted)
        content(built)
        built.add(after, counted)
        return built.build()
