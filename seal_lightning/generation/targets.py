"""A prompt and the target to be scored after it, as token ids."""

from __future__ import annotations

from seal_lightning.core import ChatMessage, ScoreRequest
from seal_lightning.core.errors import DataError, shown
from seal_lightning.models.language_model import LanguageModel


def prompt_and_target(
    request: ScoreRequest, language_model: LanguageModel, max_length: int
) -> tuple[list[int], list[int]]:
    """Their ids; behind a chat those of an answer, stripped as the template strips it, and so those that are trained.

    Raises :class:`DataError` where they are more than ``max_length`` tokens together.
    """
    prompt = language_model.encode_prompt(request.prompt)
    if isinstance(request.prompt, str):
        target = language_model.encode_text(request.target)
    else:
        answer = ChatMessage(role="assistant", content=request.target)
        target = language_model.encode_chat((*request.prompt, answer), answer_next=False)[-2]
    if len(prompt) + len(target) > max_length:
        raise DataError(
            f"a prompt of {len(prompt)} tokens and its answer of {len(target)} do not fit the model's context of "
            f"{max_length}: {shown(request.target)}"
        )
    return prompt, target
