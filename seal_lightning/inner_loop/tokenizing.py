"""Tokens and loss masks of training sequences."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.core import AdaptationPlan, ChatMessage, Diverged, TrainingSequence
from seal_lightning.core.errors import DataError, shown
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import TokenizedSequence

_logger = logging.getLogger(__name__)


def trainable_sequences(plan: AdaptationPlan, language_model: LanguageModel) -> list[TokenizedSequence] | Diverged:
    """Return a plan's sequences as tokens, without those truncated before their first trained token.

    The result is :class:`Diverged` where nothing is left to train.
    """
    sequences = [tokenize(sequence, language_model) for sequence in plan.sequences]
    if not sequences:
        return Diverged(reason="the plan has no sequences", step=0)
    if empty := [i for i, s in enumerate(sequences) if not s.token_ids]:
        return Diverged(reason=f"sequence {empty[0]} of the plan has no tokens", step=0)
    whole = [s for s in sequences if any(s.trained) or not s.truncated]
    if not whole:
        reason = f"all {len(sequences)} sequences are truncated to the model's context before their first trained token"
        return Diverged(reason=reason, step=0)
    return whole


def anchor_sequences(plan: AdaptationPlan, language_model: LanguageModel) -> list[TokenizedSequence]:
    """Return the texts of a plan's anchor as tokens, without those that have no target."""
    texts = plan.anchor.sequences if plan.anchor is not None else ()
    found = [replace(tokenize(text, language_model), anchored=True) for text in texts]
    return [sequence for sequence in found if sequence.num_targets]


def warn_of_cuts(num_skipped: int, sequences: Sequence[TokenizedSequence], max_length: int) -> None:
    """Log the sequences that are skipped or truncated because they exceed the model's context."""
    if num_skipped:
        _logger.warning("%d sequences were skipped: truncated to the context, they have no trained token", num_skipped)
    if cut := sum(sequence.truncated for sequence in sequences):
        _logger.warning("%d sequences were truncated to the model's %d tokens", cut, max_length)


def tokenize(sequence: TrainingSequence, language_model: LanguageModel) -> TokenizedSequence:
    """Return the tokens and the loss mask of a sequence, truncated to the model's context; the first token is never trained.

    Segments are tokenised separately. Those without roles follow the model's begin tokens. Those with roles are the turns of
    a chat: its ids are those of a prompt (:meth:`LanguageModel.encode_chat`), and after a last answer it ends with the
    answer's end token.

    Raises :class:`DataError` where some segments have a role and others have none; :class:`ModelError` where the model's
    chat template is missing or cannot write these turns.
    """
    with_role = [segment.role is not None for segment in sequence.segments]
    if any(with_role) and not all(with_role):
        text = sequence.segments[with_role.index(False)].text
        raise DataError(f"a training sequence has segments with a role and one without: {shown(text)}")
    ids, trained = _of_chat(sequence, language_model) if any(with_role) else _of_texts(sequence, language_model)
    if trained:
        trained[0] = False
    limit = language_model.max_length
    return TokenizedSequence(token_ids=tuple(ids[:limit]), trained=tuple(trained[:limit]), truncated=len(ids) > limit)


def _of_texts(sequence: TrainingSequence, language_model: LanguageModel) -> tuple[list[int], list[bool]]:
    ids = list(language_model.bos_ids)
    trained = [False] * len(ids)
    for segment in sequence.segments:
        segment_ids = language_model.encode_text(segment.text)
        ids += segment_ids
        trained += [segment.trained] * len(segment_ids)
    return ids, trained


def _of_chat(sequence: TrainingSequence, language_model: LanguageModel) -> tuple[list[int], list[bool]]:
    """Tokenise a chat: an answer's end token is trained with it, other tokens of the template where every turn is trained."""
    segments = sequence.segments
    turns = [ChatMessage(role=segment.role, content=segment.text) for segment in segments if segment.role is not None]
    opening, *pieces = language_model.encode_chat(turns, answer_next=False)
    if segments[-1].role == "assistant":
        pieces[-1] = [pieces[-1][0] if _ends(pieces[-1], language_model) else language_model.eos_ids[0]]
    all_trained = all(segment.trained for segment in segments)
    ids, trained = list(opening), [all_trained] * len(opening)
    for segment, content, frame in zip(segments, pieces[::2], pieces[1::2], strict=True):
        ids += content + frame
        trained += [segment.trained] * len(content)
        of_frame = [all_trained] * len(frame)
        if segment.role == "assistant" and _ends(frame, language_model):
            of_frame[0] = segment.trained
        trained += of_frame
    return ids, trained


def _ends(frame: list[int], language_model: LanguageModel) -> bool:
    return bool(frame) and frame[0] in language_model.eos_ids
