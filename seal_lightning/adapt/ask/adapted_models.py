"""A base model and its adapters, unmerged and chosen by name; the base weights never change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from seal_lightning.adapt.ask.adapter_sources import AdapterSource, common_base
from seal_lightning.adapt.ask.questions import AskedQuestion
from seal_lightning.adapt.ask.streaming import Emit, TextStream
from seal_lightning.adapt.record import Asking
from seal_lightning.core import Completion, Prompt, SamplingSpec
from seal_lightning.core.errors import ConfigError, DataError, ModelError, shown
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, load_adapter
from seal_lightning.models.pretrained import Pretrained

Side = Literal["adapted", "unadapted"]
SIDES: tuple[Side, ...] = ("adapted", "unadapted")


def _ignored(text: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class TimedAnswer:
    """The answer of one model."""

    text: str
    """Stripped, as in an exam."""
    num_tokens: int
    finish_reason: str
    """``stop`` or ``length``."""
    seconds: float


Compared = Mapping[Side, TimedAnswer]


class AdaptedModels:
    """One loaded base model and its named adapters. One answer is written at a time."""

    def __init__(self, language_model: LanguageModel, adapters: dict[str, LoraAdapter]) -> None:
        self.language_model = language_model
        self.adapters = adapters
        """By name, in the order of the sources."""
        self._engine = TransformersEngine()
        self._engine.bind(language_model)

    @classmethod
    def load(cls, sources: Sequence[AdapterSource], *, trust_remote_code: bool = False) -> AdaptedModels:
        """Load the base model, on the GPU where there is one, and the adapters, each checked first.

        Raises :class:`ConfigError` for sources of different bases, :class:`ModelError` for a base that cannot be loaded and
        for an adapter that does not fit it or is damaged.
        """
        base = common_base(sources, trust_remote_code=trust_remote_code)
        try:
            language_model = Pretrained(
                source=base.source, revision=base.revision, dtype=base.dtype, trust_remote_code=base.trust_remote_code
            ).load()
        except ModelError as error:
            raise ModelError(
                f"DIR: the base model of {shown(sources[0].given)}, named in its adapted.json or adapter_config.json, cannot "
                f"be loaded: {error}"
            ) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        language_model.model.to(device)
        adapters = {}
        for source in sources:
            try:
                adapters[source.name] = load_adapter(language_model.model, source.adapter).detached_copy(device)
            except (ModelError, ConfigError) as error:
                raise ModelError(
                    f"DIR: the adapter of {shown(source.given)} cannot be loaded: {error}. Either it is damaged, or it "
                    f"belongs to another base model than {shown(source.base.source)}"
                ) from error
        return cls(language_model, adapters)

    @property
    def has_chat(self) -> bool:
        """Return whether the tokenizer has a chat template."""
        return self.language_model.tokenizer.chat_template is not None

    def asking(self, source: AdapterSource) -> Asking:
        """Return how a source's model is asked; a plain PEFT folder's, in a chat where there is a chat template."""
        return source.asking or Asking(style="chat" if self.has_chat else "base")

    def adapter(self, name: str | None) -> LoraAdapter | None:
        """Return an adapter by name; None for the base model. Raises :class:`ConfigError` for an unknown name."""
        if name is not None and name not in self.adapters:
            raise ConfigError(
                f"adapter: {shown(name)} is not loaded; loaded are {', '.join(map(shown, self.adapters))}"
            )
        return None if name is None else self.adapters[name]

    def prompt_ids(self, prompt: Prompt | list[int]) -> list[int]:
        """Return the ids of a prompt, text or ids, that leaves room for an answer.

        Raises :class:`DataError` for one that is too long, :class:`ConfigError` for ids that the model does not have,
        :class:`ModelError` for a chat without a chat template.
        """
        model = self.language_model
        if isinstance(prompt, tuple) and not self.has_chat:
            raise ModelError("the model's tokenizer has no chat template, so it cannot chat; use /v1/completions")
        ids = prompt if isinstance(prompt, list) else model.prompt_ids(prompt)
        # An id without a row in the embedding would end the process on a GPU.
        if max(ids) >= (num_known := int(model.model.get_input_embeddings().weight.shape[0])):
            raise ConfigError(f"prompt: token {max(ids)} is not allowed; the model knows 0 to {num_known - 1}")
        if len(ids) >= model.max_length:
            raise DataError(
                f"the prompt has {len(ids)} tokens; this model's maximum context length is {model.max_length} tokens, "
                "with the answer. Shorten it"
            )
        return ids

    def write(
        self,
        prompt_ids: list[int],
        sampling: SamplingSpec,
        adapter: str | None,
        *,
        seed: int = 0,
        emit: Emit = _ignored,
        is_cancelled: Callable[[], bool] = _never,
    ) -> Completion:
        """Return one completion of the model with a named adapter, or (None) of the base model.

        Args:
            prompt_ids: of :meth:`prompt_ids`.
            sampling: ``max_new_tokens`` is cut to the rest of the context.
            adapter: its name. Raises :class:`ConfigError` for an unknown one.
            seed: of this completion's draws, 0 to 2**63 − 1.
            emit: receives the text in pieces while it is written.
            is_cancelled: checked after every token; ``AnswerStopped`` is raised where it is true.
        """
        stream = TextStream(self.language_model.decode, sampling.stop, emit, is_cancelled)
        completion = self._engine.stream(prompt_ids, sampling, stream, adapter=self.adapter(adapter), seed=seed)
        stream.finish(completion.text)
        return completion

    def answer(
        self,
        question: AskedQuestion,
        side: Side,
        sampling: SamplingSpec,
        *,
        seed: int = 0,
        emit: Emit = _ignored,
        is_cancelled: Callable[[], bool] = _never,
    ) -> TimedAnswer:
        """Return the answer of the first adapter's model or of the base model; see :meth:`write`."""
        started = time.perf_counter()
        adapter = next(iter(self.adapters)) if side == "adapted" else None
        sampling = replace(sampling, stop=(*question.stop, *sampling.stop))
        ids = self.prompt_ids(question.prompt)
        completion = self.write(ids, sampling, adapter, seed=seed, emit=emit, is_cancelled=is_cancelled)
        return TimedAnswer(
            text=completion.text.strip(),
            num_tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason.value,
            seconds=time.perf_counter() - started,
        )
