"""A base model with adapters beside it, each asked by its name; the base model itself is never changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from seal_lightning.adapt.ask.questions import AskedQuestion
from seal_lightning.adapt.ask.sources import AdapterSource, common_base
from seal_lightning.adapt.ask.writing import never, unheard, write
from seal_lightning.adapt.record import Asking
from seal_lightning.core import Completion, Prompt, SamplingSpec
from seal_lightning.core.errors import ConfigError, DataError, ModelError, shown
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, load_adapter
from seal_lightning.models.pretrained import Pretrained


class AdaptedModels:
    """One base model and its named adapters, loaded. One answer is written at a time."""

    def __init__(self, language_model: LanguageModel, adapters: dict[str, LoraAdapter]) -> None:
        self.language_model = language_model
        self.adapters = adapters
        """By name, in the order they were given."""

    @classmethod
    def load(cls, sources: Sequence[AdapterSource], *, trust_remote_code: bool = False) -> AdaptedModels:
        """Load the base model, on the GPU where there is one, and beside it the adapters, each checked first.

        Raises :class:`ConfigError` for sources of different bases, :class:`ModelError` for a base that cannot be had and
        for an adapter that does not fit it or is damaged.
        """
        base = common_base(sources, trust_remote_code=trust_remote_code)
        try:
            language_model = Pretrained(
                source=base.source, revision=base.revision, dtype=base.dtype, trust_remote_code=base.trust_remote_code
            ).load()
        except ModelError as error:
            raise ModelError(
                f"DIR: the base model of {shown(sources[0].given)} cannot be had: {error}. The folder names it in "
                "adapted.json, or in adapter_config.json as base_model_name_or_path; the adapter is of no use without it"
            ) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        language_model.model.to(device)
        adapters = {source.name: _adapter(language_model, source, device) for source in sources}
        return cls(language_model, adapters)

    @property
    def has_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.language_model.tokenizer.chat_template is not None

    def asking(self, source: AdapterSource) -> Asking:
        """How a source's model is asked; of a plain PEFT folder in a chat where there is a chat template."""
        return source.asking or Asking(style="chat" if self.has_chat else "base")

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt that leaves room for an answer.

        Raises :class:`DataError` for one that is too long, :class:`ModelError` for a chat without a chat template.
        """
        ids = self.language_model.prompt_ids(prompt)
        if len(ids) >= self.language_model.max_length:
            raise DataError(
                f"the question makes a prompt of {len(ids)} tokens; the model's context is "
                f"{self.language_model.max_length} and must hold the answer too. Shorten it"
            )
        return ids

    def answer(
        self,
        question: AskedQuestion,
        adapter: str | None,
        sampling: SamplingSpec,
        *,
        seed: int = 0,
        tell: Callable[[str], None] = unheard,
        given_up: Callable[[], bool] = never,
    ) -> Completion:
        """The answer of the model with a named adapter, or (None) of the base model; see :func:`write`.

        The question's own stop strings end it too. Raises what :meth:`prompt_ids` raises, :class:`ConfigError` for an
        adapter that is not there, ``Stopped``.
        """
        ids = self.prompt_ids(question.prompt)
        spec = SamplingSpec(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            stop=(*question.stop, *sampling.stop),
        )
        return write(
            self.language_model, ids, spec, adapter=self.adapter(adapter), seed=seed, tell=tell, given_up=given_up
        )

    def adapter(self, name: str | None) -> LoraAdapter | None:
        """An adapter by name; None for the base model. Raises :class:`ConfigError` for one that is not there."""
        if name is None:
            return None
        if name not in self.adapters:
            raise ConfigError(f"adapter: {shown(name)} is not loaded; there are {', '.join(map(shown, self.adapters))}")
        return self.adapters[name]


def _adapter(language_model: LanguageModel, source: AdapterSource, device: torch.device) -> LoraAdapter:
    try:
        return load_adapter(language_model.model, source.adapter).detached_copy(device)
    except (ModelError, ConfigError) as error:
        raise ModelError(
            f"DIR: the adapter of {shown(source.given)} is not loaded: {error}. Either it is damaged, or it belongs to "
            f"another base model than {shown(source.base.source)}"
        ) from error
