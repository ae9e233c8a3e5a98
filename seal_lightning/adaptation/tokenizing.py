"""Training sequences to tokens and loss masks."""

from __future__ import annotations

from seal_lightning.language_model import LanguageModel
from seal_lightning.packed import TokenizedSequence
from seal_lightning.types import TrainingSequence


def tokenize(sequence: TrainingSequence, language_model: LanguageModel) -> TokenizedSequence:
    """Tokenise each segment apart, behind the model's begin tokens; what is over the model's context is cut off."""
    ids = list(language_model.bos_ids)
    trained = [False] * len(ids)
    for segment in sequence.segments:
        segment_ids = language_model.encode_text(segment.text)
        ids += segment_ids
        trained += [segment.trained] * len(segment_ids)
    if trained:
        trained[0] = False
    limit = language_model.max_length
    return TokenizedSequence(token_ids=tuple(ids[:limit]), trained=tuple(trained[:limit]), truncated=len(ids) > limit)
