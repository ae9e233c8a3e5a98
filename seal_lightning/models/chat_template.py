"""What a chat template writes around the turns of a chat.

A template is rendered once for each pattern of roles, with a sentinel in place of each turn's content. So frames and
contents can be tokenised apart, and what belongs to which turn is known by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from seal_lightning.core.errors import ModelError

_DATE = "26 Jul 2024"
"""What Llama 3's template writes where it is not told today's date: a run that goes on tomorrow has the same prompts."""
_LEFT_PAD, _RIGHT_PAD = "\n ", " \n"
_STRIPPED = {2: "", 1: "\n", 0: None}
"""How many characters of a pad a template leaves, and so what it strips: nothing, line ends, all white space."""


@dataclass(frozen=True, kw_only=True)
class ChatFrame:
    """The texts around the contents of a chat's turns, and how the template strips the contents."""

    texts: tuple[str, ...]
    """One more than there are turns: before the first content, between contents, behind the last."""
    strips: tuple[tuple[str | None, str | None], ...]
    """Of each turn, the characters stripped on the content's left and right; None is all white space, "" nothing."""

    def content(self, turn: int, content: str) -> str:
        """A turn's content as the template writes it."""
        left, right = self.strips[turn]
        return content.lstrip(left).rstrip(right)


class ChatTemplate:
    """The frames of a tokenizer's chat template, each pattern of roles rendered once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._of_roles = lru_cache(maxsize=1024)(self._made)

    def frame(self, roles: tuple[str, ...], *, answer_next: bool) -> ChatFrame:
        """The frame of turns with these roles; with ``answer_next``, up to where an answer starts.

        Raises :class:`ModelError` where the tokenizer has no chat template, and where the template refuses the roles or
        drops, repeats or rewrites a turn.
        """
        return self._of_roles(roles, answer_next)

    def _made(self, roles: tuple[str, ...], answer_next: bool) -> ChatFrame:
        sentinels = [f"[content-of-turn-{i}]" for i in range(len(roles))]
        texts = self._around(roles, sentinels, sentinels, answer_next)
        padded = [f"{_LEFT_PAD}{sentinel}{_RIGHT_PAD}" for sentinel in sentinels]
        pads = []
        for text, plain in zip(self._around(roles, padded, sentinels, answer_next), texts, strict=True):
            left = _pads_left(text, plain)
            if left is None:
                raise ModelError(f"the chat template rewrites the content of a turn (roles: {', '.join(roles)})")
            pads.append(left)
        strips = tuple((_STRIPPED[before[1]], _STRIPPED[behind[0]]) for before, behind in pairwise(pads))
        return ChatFrame(texts=tuple(texts), strips=strips)

    def _around(
        self, roles: tuple[str, ...], contents: list[str], sentinels: list[str], answer_next: bool
    ) -> list[str]:
        """The rendered chat, split at the sentinels."""
        rest, texts = self._rendered(roles, contents, answer_next), []
        for role, sentinel in zip(roles, sentinels, strict=True):
            if rest.count(sentinel) != 1:
                raise ModelError(
                    f"the chat template drops, repeats or moves a turn of the {role} (roles: {', '.join(roles)}); use "
                    "another prompt format, or a model whose chat template keeps every turn"
                )
            before, rest = rest.split(sentinel)
            texts.append(before)
        return [*texts, rest]

    def _rendered(self, roles: tuple[str, ...], contents: list[str], answer_next: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise ModelError(
                "the prompt is a chat but the model's tokenizer has no chat template: use an instruction-tuned model, or, "
                "for passages, `model.domain.init_args.style: base`"
            )
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=answer_next, tokenize=False, date_string=_DATE
            )
        except TemplateError as error:
            raise ModelError(f"the chat template refuses a chat of {', '.join(roles)}: {error}") from error
        return str(text)


def _pads_left(text: str, plain: str) -> tuple[int, int] | None:
    """How much of a content's right pad stands before, and of a content's left pad behind, the plain frame text."""
    for before in range(len(_RIGHT_PAD) + 1):
        for after in range(len(_LEFT_PAD) + 1):
            if text == _RIGHT_PAD[:before] + plain + _LEFT_PAD[len(_LEFT_PAD) - after :]:
                return before, after
    return None
