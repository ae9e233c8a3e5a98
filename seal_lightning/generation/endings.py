"""Where a completion ends: the same rule for whoever wrote its tokens."""

from __future__ import annotations

from seal_lightning.core import Completion, FinishReason, SamplingSpec
from seal_lightning.models.language_model import LanguageModel


def ended(ids: list[int], spec: SamplingSpec, language_model: LanguageModel) -> Completion:
    """What was written, up to its own end: an end token, a stop string, or the number of tokens.

    Args:
        ids: the tokens written, and perhaps more behind the end.
        spec: says when a text ends.
        language_model: decodes them.
    """
    ids = ids[: spec.max_new_tokens]
    finish = FinishReason.LENGTH
    end = next((i for i, token in enumerate(ids) if token in language_model.eos_ids), None)
    if end is not None:
        ids, finish = ids[: end + 1], FinishReason.STOP
    text = language_model.decode(ids)
    cut = min((at for stop in spec.stop if (at := text.find(stop)) >= 0), default=None)
    if cut is not None:
        ids, finish = _ids_up_to_stop(ids, spec.stop, language_model), FinishReason.STOP
        text = text[:cut]
    return Completion(text=text, token_ids=tuple(ids), finish_reason=finish)


def _ids_up_to_stop(ids: list[int], stops: tuple[str, ...], language_model: LanguageModel) -> list[int]:
    """The ids up to and with the token that completed the first stop string."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        text = language_model.decode(ids[:middle])
        low, high = (low, middle) if any(stop in text for stop in stops) else (middle + 1, high)
    return ids[:low]
