"""What a vLLM server sends back, as far as it is used: validated, never trusted."""

from __future__ import annotations

import math
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seal_lightning.generation.endpoints import TryAgain, first_problem

_LOWEST = -9999.0
"""How a server writes minus infinity."""

_Id = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _LogProb(_Part):
    logprob: float | None


class ReplyChoice(_Part):
    """One completion."""

    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """The stop string or end token that ended it; None for the model's own end token."""
    token_ids: list[_Id] | None = None
    """Since vLLM 0.10.2."""
    prompt_token_ids: list[_Id] | None = None
    prompt_logprobs: list[dict[str, _LogProb] | None] | None = None
    """For each token of the prompt but the first, by token id."""

    @property
    def tells_stop_reason(self) -> bool:
        """Whether the server has that field at all: then None means something."""
        return "stop_reason" in self.model_fields_set


class _Completion(_Part):
    choices: Annotated[list[ReplyChoice], Field(min_length=1, max_length=1)]


class ServedModel(_Part):
    """One model or adapter that a server has."""

    id: str
    max_model_len: int | None = None


class _Models(_Part):
    data: list[ServedModel]


PartT = TypeVar("PartT", bound=_Part)


def choice_of(body: bytes) -> ReplyChoice:
    """The completion in a body. Raises :class:`TryAgain` for half of one, an error page, one that was broken off."""
    choice = _read(_Completion, body).choices[0]
    if choice.finish_reason not in ("stop", "length"):
        raise TryAgain(f"a completion that was broken off: {str(choice.finish_reason)[:40]!r}")
    return choice


def models_of(body: bytes) -> list[ServedModel]:
    """What a server says it has. Raises :class:`TryAgain`."""
    return _read(_Models, body).data


def log_probs_of(choice: ReplyChoice, ids: list[int], num_targets: int) -> list[float] | None:
    """The log-probabilities of a prompt's last tokens; None where the server tells none. Raises :class:`TryAgain`."""
    told = choice.prompt_logprobs
    if told is None:
        return None
    if len(told) != len(ids):
        raise TryAgain(f"log-probabilities of {len(told)} tokens where {len(ids)} were asked for")
    found = []
    for token, by_id in list(zip(ids, told, strict=True))[-num_targets:]:
        entry = (by_id or {}).get(str(token))
        if entry is None:
            raise TryAgain(f"no log-probability of the token {token} in its place")
        value = math.nan if entry.logprob is None else entry.logprob
        found.append(-math.inf if value <= _LOWEST else value)
    return found


def _read(kind: type[PartT], body: bytes) -> PartT:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise TryAgain(f"the body is no {kind.__name__.strip('_').lower()}: {first_problem(error)}") from error
