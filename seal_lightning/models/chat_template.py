"""The texts that a chat template writes around the turns of a chat.

A template is rendered once for each pattern of roles, with a sentinel in place of each turn's content. So template and
contents can be tokenised separately, and the tokens of each turn are known by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from seal_lightning.core.errors import ModelError

# The default of Llama 3's template. With a fixed date, a run that is resumed tomorrow has the same prompts.
_DATE = "26 Jul 2024"
_LEFT_PAD, _RIGHT_PAD = "\n ", " \n"
# The characters that a template strips, by the number of a pad's characters that it leaves: none, line ends, all white space.
_STRIPPED = {2: "", 1: "\n", 0: None}


@dataclass(frozen=True, kw_only=True)
class ChatFrame:
    """The texts around the contents of a chat's turns, and the characters that the template strips from the contents."""

    texts: tuple[str, ...]
    """One more than turns: before the first content, between contents, after the last."""
    strips: tuple[tuple[str | None, str | None], ...]
    """Characters stripped on the left and right of each turn's content; None is all white space, "" nothing."""

    def content(self, turn: int, content: str) -> str:
        """Return a turn's content as the template writes it."""
        left, right = self.strips[turn]
        return content.lstrip(left).rstrip(right)


class ChatTemplate:
    """The frames of a tokenizer's chat template; each pattern of roles is rendered once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._of_roles = lru_cache(maxsize=1024)(self._make_frame)

    def frame(self, roles: tuple[str, ...], *, answer_next: bool) -> ChatFrame:
        """Return the frame of turns with these roles; with ``answer_next``, up to where an answer starts.

        Raises :class:`ModelError` where the tokenizer has no chat template, and where the template rejects the roles or
        drops, repeats or rewrites a turn.
        """
        return self._of_roles(roles, answer_next)

    def _make_frame(self, roles: tuple[str, ...], answer_next: bool) -> ChatFrame:
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
        """Return the rendered chat, split at the sentinels."""
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
            raise ModelError(f"the chat template rejects a chat of {', '.join(roles)}: {error}") from error
        return str(text)


def _pads_left(text: str, plain: str) -> tuple[int, int] | None:
    """Return how much of a content's right pad precedes, and of a content's left pad follows, the plain frame text."""
    for before in range(len(_RIGHT_PAD) + 1):
        for after in range(len(_LEFT_PAD) + 1):
            if text == _RIGHT_PAD[:before] + plain + _LEFT_PAD[len(_LEFT_PAD) - after :]:
                return before, after
    return None
