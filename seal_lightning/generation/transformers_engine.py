"""The in-process engine: batches of free text, constrained decoding and packed scoring; one batch may mix adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from seal_lightning.core import (
    Adapter,
    ChoiceScoreRequest,
    Completion,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
    TextSchema,
)
from seal_lightning.core.errors import DataError, require, shown
from seal_lightning.core.interfaces import Engine
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.generation.constrained import (
    SchemaRow,
    SchemaTokens,
    append_free_text,
    fill_schemas,
    open_free_text,
)
from seal_lightning.generation.decoding import Report, TextBatch, TextRow
from seal_lightning.generation.prompt_lengths import encode_prompt_and_target
from seal_lightning.generation.row_batches import merge_rows, sort_by_adapter
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter, routed
from seal_lightning.models.out_of_memory import retry_in_halves
from seal_lightning.models.packed import TokenizedSequence, pack
from seal_lightning.models.packed.rows import group_by_tokens


class TransformersEngine(Engine):
    """Runs the bound model in this process.

    Rows of similar length share a batch, whatever their adapter; within a batch, rows are sorted by adapter. When memory
    runs out, a batch is halved.

    Args:
        max_batch_size: ≥ 1, rows generated at once.
        max_tokens_per_pass: ≥ 1, tokens of one pass that scores targets; a longer request gets a pass of its own.

    Example:
        >>> engine = TransformersEngine(max_batch_size=8)  # a run calls engine.bind(its language model)
        >>> engine.generate([])
        []
    """

    def __init__(self, max_batch_size: int = 32, max_tokens_per_pass: int = 2048) -> None:
        for name, value in {"max_batch_size": max_batch_size, "max_tokens_per_pass": max_tokens_per_pass}.items():
            require(value >= 1, f"engine.{name}", value, "at least 1")
        self.max_batch_size = max_batch_size
        self.max_tokens_per_pass = max_tokens_per_pass

    def bind(self, language_model: LanguageModel) -> None:
        """Use this model from now on."""
        self.language_model = language_model

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """Return one completion per request, in order.

        The literals and choices of a schema are always complete: ``max_new_tokens``, ``top_p`` and ``stop`` apply only to
        the free text at its end.

        Raises :class:`ConfigError` as :class:`SchemaTokens`, and :class:`DataError` for a schema that does not fit the
        model's context after its prompt.
        """
        completions: dict[int, Completion] = {}
        opened: dict[int, Completion] = {}
        rows = []
        for row, filled in self._fill({i: one for i, one in enumerate(requests) if one.schema is not None}):
            completions[row.index] = filled
            if (begun := open_free_text(row, filled, self.language_model)) is not None:
                opened[row.index] = begun
                # A seed of its own: the choices have drawn from the request's.
                seed = derive_seed(requests[row.index].seed, "free text")
                rows.append(self._text_row(row.index, requests[row.index], [*row.prompt, *begun.token_ids], seed))
        for index, request in enumerate(requests):
            if request.schema is None:
                prompt = self.language_model.encode_prompt(request.prompt)
                rows.append(self._text_row(index, request, prompt, request.seed))
        rows.sort(key=lambda row: (len(row.prompt), row.index))  # similar lengths together, for little padding
        for start in range(0, len(rows), self.max_batch_size):
            batch = sort_by_adapter(rows[start : start + self.max_batch_size], lambda row: row.adapter)
            written = retry_in_halves(batch, self._generate_batch)
            completions |= {row.index: completion for row, completion in zip(batch, written, strict=True)}
        completions |= {index: append_free_text(begun, completions[index]) for index, begun in opened.items()}
        return [completions[index] for index in range(len(requests))]

    @torch.no_grad()
    def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingSpec,
        report: Report,
        *,
        adapter: LoraAdapter | None = None,
        seed: int = 0,
    ) -> Completion:
        """Generate one completion as :meth:`generate` does in a batch of one, and report its ids after each token.

        Args:
            prompt_ids: at least one token, fewer than the model's context.
            sampling: its ``max_new_tokens`` is cut to the rest of the context.
            report: receives the ids written so far; an exception that it raises ends the generation.
            adapter: of the bound model; None for the model itself.
            seed: of this completion's draws, 0 to 2**63 − 1.
        """
        sampling = self._within_context(sampling, len(prompt_ids))
        row = TextRow(index=0, prompt=[*prompt_ids], sampling=sampling, adapter=adapter, seed=seed)
        return TextBatch([row], self.language_model, report).write()[0]

    @torch.no_grad()
    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """Return the log-probability (nats) of given choices, request by request, in order: as ``generate`` makes them.

        Raises as :meth:`generate`.
        """
        found = {row.index: completion.log_prob or 0.0 for row, completion in self._fill(dict(enumerate(requests)))}
        return [found[index] for index in range(len(requests))]

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """Return the log-probability (nats) of each target token after its prompt, request by request, in order.

        Raises :class:`DataError` for a prompt and target that together do not fit the model's context.
        """
        adapters = [_lora(request.adapter) for request in requests]
        sequences = [self._with_target(request) for request in requests]
        order = sort_by_adapter(range(len(requests)), lambda index: adapters[index])
        scores: dict[int, list[float]] = {}
        position = 0
        for group in group_by_tokens([sequences[i] for i in order], self.max_tokens_per_pass):
            indices = order[position : position + len(group)]
            position += len(group)
            found = retry_in_halves(
                indices, lambda part: self._score_batch([(sequences[i], adapters[i]) for i in part])
            )
            scores |= dict(zip(indices, found, strict=True))
        return [scores[index] for index in range(len(requests))]

    def _text_row(self, index: int, request: GenerationRequest, prompt: list[int], seed: int) -> TextRow:
        sampling = self._within_context(request.sampling, len(prompt))
        return TextRow(index=index, prompt=prompt, sampling=sampling, adapter=_lora(request.adapter), seed=seed)

    def _within_context(self, sampling: SamplingSpec, prompt_length: int) -> SamplingSpec:
        room = self.language_model.max_length - prompt_length
        return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))

    def _generate_batch(self, batch: Sequence[TextRow]) -> list[Completion]:
        return TextBatch(batch, self.language_model).write()

    def _fill(
        self, requests: Mapping[int, GenerationRequest | ChoiceScoreRequest]
    ) -> list[tuple[SchemaRow, Completion]]:
        """Return each request's row, with its completion up to the free text."""
        schemas: dict[TextSchema, SchemaTokens] = {}
        rows = []
        for index, request in requests.items():
            assert request.schema is not None
            if request.schema not in schemas:
                schemas[request.schema] = SchemaTokens(request.schema, self.language_model)
            rows.append(self._schema_row(index, request, schemas[request.schema]))
        rows.sort(key=lambda row: (len(row.prompt), row.index))
        filled: list[tuple[SchemaRow, Completion]] = []
        for start in range(0, len(rows), self.max_batch_size):
            batch = sort_by_adapter(rows[start : start + self.max_batch_size], lambda row: row.adapter)
            filled += zip(batch, retry_in_halves(batch, self._fill_batch), strict=True)
        return filled

    def _fill_batch(self, batch: Sequence[SchemaRow]) -> list[Completion]:
        return fill_schemas(batch, self.language_model)

    def _schema_row(
        self, index: int, request: GenerationRequest | ChoiceScoreRequest, schema: SchemaTokens
    ) -> SchemaRow:
        prompt = self.language_model.encode_prompt(request.prompt)
        if len(prompt) + schema.longest > self.language_model.max_length:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and a schema of up to {schema.longest} do not fit the model's context of "
                f"{self.language_model.max_length}: {shown(request.schema)}"
            )
        row = SchemaRow(index=index, prompt=prompt, schema=schema, adapter=_lora(request.adapter))
        if isinstance(request, ChoiceScoreRequest):
            return replace(row, given=schema.token_ids(request.choices))
        temperature = request.sampling.choice_temperature
        return replace(
            row, temperature=request.sampling.temperature if temperature is None else temperature, seed=request.seed
        )

    def _with_target(self, request: ScoreRequest) -> TokenizedSequence:
        prompt, target = encode_prompt_and_target(request, self.language_model, self.language_model.max_length)
        trained = (False,) * len(prompt) + (True,) * len(target)
        return TokenizedSequence(token_ids=(*prompt, *target), trained=trained)

    def _score_batch(self, batch: Sequence[tuple[TokenizedSequence, LoraAdapter | None]]) -> list[list[float]]:
        interruption.check()
        row = pack([sequence for sequence, _ in batch], self.language_model.device)
        forward = self.language_model.packed
        rows = [AdapterRows(size=len(sequence.token_ids), adapter=adapter) for sequence, adapter in batch]
        with routed(self.language_model.model, merge_rows(rows)):
            losses = forward(row).losses
        return [[-loss for loss in part.tolist()] for part in torch.split(losses, list(row.num_targets))]


def _lora(adapter: Adapter | None) -> LoraAdapter | None:
    assert adapter is None or isinstance(adapter, LoraAdapter)
    return adapter
