"""A text whose choices are made, and the free text that follows it: one completion of two kinds of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from seal_lightning.core import Completion
from seal_lightning.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class OpenedText:
    """What stands before the free text: slots filled in, without the end token, and the opening."""

    filled: Completion
    text: str
    token_ids: tuple[int, ...]
    chosen: tuple[bool, ...]

    @classmethod
    def of(cls, filled: Completion, opening: str, language_model: LanguageModel) -> OpenedText:
        """A completion of :func:`~seal_lightning.generation.slot_filling.fill_slots`, which always ends, goes on."""
        assert filled.chosen is not None
        given = tuple(language_model.encode_text(opening)) if opening else ()
        return cls(
            filled=filled,
            text=filled.text + opening,
            token_ids=(*filled.token_ids[:-1], *given),
            chosen=(*filled.chosen[:-1], *(False for _ in given)),
        )

    def followed_by(self, written: Completion) -> Completion:
        """The whole: choices and their log-probability are the slots', the end is the free text's."""
        return replace(
            self.filled,
            text=self.text + written.text,
            token_ids=(*self.token_ids, *written.token_ids),
            chosen=(*self.chosen, *(True for _ in written.token_ids)),
            finish_reason=written.finish_reason,
        )
