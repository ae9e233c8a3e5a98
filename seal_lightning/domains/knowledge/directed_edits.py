"""Edits that also choose their training: the paper's "specify optimisation hyperparameters" (§3.1), for passages.

An edit is one line of JSON, the update directives, followed by the text in the format they name. Both are the policy's, and
ReST-EM reinforces both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model

from seal_lightning.core import Choice, FreeText, TextSchema, merge_literals
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.domains.edit_json import StrictModel, leading_json, malformed
from seal_lightning.domains.knowledge.formats import PromptFormat, Style, UpdateDirectives
from seal_lightning.domains.knowledge.worked_examples import WorkedExample

PASSAGE_ONLY = "none"
"""The format of an edit without text: only the passage is learned."""
_NAMED = ("format", "layers")
"""Directives whose options are names; the others have numbers."""
MAX_LINE_BYTES = 1024
"""The directives have about 130."""


@dataclass(frozen=True, kw_only=True)
class DirectedEdits(PromptFormat):
    """Format in which the policy chooses the text format, the optimiser and the layers of each edit, and then writes it.

    A menu of one option is a directive of all edits; an empty menu leaves the choice to the domain.

    Example:
        >>> from seal_lightning.domains.knowledge import Rewrites
        >>> directed = DirectedEdits(formats={"rewrites": Rewrites()}, learning_rates=(1e-4, 1e-3))
        >>> directed.menus["learning_rate"]
        ('0.0001', '0.001')

    """

    formats: Mapping[str, PromptFormat] = field(default_factory=dict)
    """≥ 1, by their names in directives."""
    passage_only: bool = True
    """Also allow an edit without text, its format "none"."""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 2e-3)
    """The default is the range of the paper's search (Appendix B.1)."""
    num_epochs: tuple[int, ...] = (1, 5, 10, 20)
    """≥ 1 each; the default is the range of the paper's search."""
    passage_weights: tuple[int, ...] = (1, 2, 4)
    """≥ 0 each: copies of the passage in an edit's training set. With 0, an edit without text is malformed."""
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Indices of the decoder layers that get the adapter, by name."""
    written: Literal["slots", "json"] = "slots"
    """``slots``: constrained decoding by the policy's own probabilities. ``json``: free text, in which numbers may be any
    between the least and the greatest of their menu; other text than this JSON is malformed."""
    instruction: str = (
        "Study the passage below. First say how it is to be learned, as one line of JSON; then write the text in the format "
        "that you named, so that it makes sense to someone who has not seen the passage."
    )
    passage_only_instruction: str = "write nothing; the passage alone is learned."
    """Describes the format "none" in the prompt."""
    heading: str = "Directives:"

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        nested = any(isinstance(one, DirectedEdits) or one.num_examples for one in self.formats.values())
        if not self.formats or nested or PASSAGE_ONLY in self.formats:
            raise ConfigError(
                f"DirectedEdits: formats is {shown(dict(self.formats))}; it must name at least one format, none of them "
                f'directed itself, none of them "{PASSAGE_ONLY}", none with num_examples (which DirectedEdits has for all)'
            )
        for name in (*self.formats, *self.layers):
            if json.dumps(name, ensure_ascii=False) != f'"{name}"' or name.strip() != name or not name:
                raise ConfigError(
                    f"DirectedEdits: {shown(name)} is not allowed as the name of a format or of layers; it must be text "
                    "that JSON writes as it is, without blanks around it"
                )
        self._check_menu("learning_rates", self.learning_rates, lambda rate: 0 < rate < math.inf, "above 0 and finite")
        self._check_menu("num_epochs", self.num_epochs, lambda epochs: epochs >= 1, "at least 1")
        self._check_menu("passage_weights", self.passage_weights, lambda weight: weight >= 0, "at least 0")
        self._check_menu("layers", tuple(map(tuple, self.layers.values())), lambda some: some and min(some) >= 0, "≥ 0")
        if self.written not in ("slots", "json"):
            raise ConfigError(f"DirectedEdits: written is {shown(self.written)}; allowed are slots, json")

    @staticmethod
    def _check_menu(name: str, menu: Sequence[Any], allowed: Any, words: str) -> None:
        wrong = [option for option in menu if not allowed(option)]
        if wrong or len(set(menu)) < len(menu):
            raise ConfigError(f"DirectedEdits: {name} is {shown(menu)}; its options must be different, each {words}")

    @cached_property
    def menus(self) -> dict[str, tuple[str, ...]]:
        """The options of each directive as in JSON, without quotation marks."""
        formats = (*self.formats, *([PASSAGE_ONLY] if self.passage_only else []))
        return {
            name: options
            for name, options in {
                "format": formats,
                "learning_rate": tuple(json.dumps(rate) for rate in self.learning_rates),
                "num_epochs": tuple(map(str, self.num_epochs)),
                "passage_weight": tuple(map(str, self.passage_weights)),
                "layers": tuple(self.layers),
            }.items()
            if options
        }

    @property
    def request(self) -> str:
        """The instruction, those of the formats, and the JSON with its options."""
        formats = {name: one.instruction for name, one in self.formats.items()}
        formats |= {PASSAGE_ONLY: self.passage_only_instruction} if self.passage_only else {}
        lines = [f'- "{name}": {instruction}' for name, instruction in formats.items()]
        keys = ", ".join(f"{json.dumps(name)}: {self._options(name)}" for name in self.menus)
        return "\n".join((self.instruction, "", "Formats:", *lines, "", f"JSON: {{{keys}}}"))

    def _options(self, name: str) -> str:
        """Write a directive's options for the prompt."""
        options = self.menus[name]
        if name in _NAMED:
            return " or ".join(json.dumps(option, ensure_ascii=False) for option in options)
        if self.written == "slots" or len(options) == 1:
            return " or ".join(options)
        numbers = sorted(options, key=float)
        return f"{numbers[0]} to {numbers[-1]}"

    def schema(self) -> TextSchema | None:
        """Return the JSON with its choices, and the free text behind it; None where the policy writes freely."""
        if self.written == "json":
            return None
        parts: list[str | Choice | FreeText] = ["{"]
        for place, (name, options) in enumerate(self.menus.items()):
            quote = '"' if name in _NAMED else ""
            parts.append(f"{', ' if place else ''}{json.dumps(name)}: {quote}")
            parts += [Choice(name=name, options=options) if len(options) > 1 else options[0], quote]
        parts.append("}")
        openings = {name: f"\n\n{one.heading}\n" for name, one in self.formats.items()}
        if len(self.menus["format"]) > 1:
            parts.append(FreeText(choice="format", prefixes=tuple(openings.items())))
        else:
            parts += [*openings.values(), FreeText()]
        return merge_literals(parts)

    def directives(self, text: str) -> UpdateDirectives:
        """Parse an edit's JSON and the text behind it.

        Raises :class:`MalformedEdit` as :func:`~seal_lightning.domains.edit_json.leading_json` does, and ``missing key``,
        ``extra key``, ``out of bounds`` or ``wrong value``.
        """
        content, rest = leading_json(text, MAX_LINE_BYTES)
        try:
            said = self._kind.model_validate(content).model_dump()
        except ValidationError as error:
            raise malformed(error) from error
        chosen = self.formats.get(said["format"])
        layers = said.get("layers")
        return UpdateDirectives(
            format=chosen,
            text="" if chosen is None else rest.removeprefix(chosen.heading.strip()),
            learning_rate=said.get("learning_rate"),
            num_epochs=said.get("num_epochs"),
            passage_weight=said.get("passage_weight"),
            layers=None if layers is None else tuple(self.layers[layers]),
        )

    @cached_property
    def _kind(self) -> type[StrictModel]:
        bounds = {
            "learning_rate": (float, self.learning_rates),
            "num_epochs": (int, self.num_epochs),
            "passage_weight": (int, self.passage_weights),
        }
        fields: dict[str, Any] = {
            name: (Annotated[kind, Field(ge=min(menu), le=max(menu))], ...)
            for name, (kind, menu) in bounds.items()
            if menu
        }
        fields |= {name: (Literal[self.menus[name]], ...) for name in _NAMED if name in self.menus}
        kind: type[StrictModel] = create_model("Directives", __base__=StrictModel, **fields)
        return kind

    def layer_options(self) -> Sequence[tuple[int, ...]]:
        """Return the menu of layers."""
        return [tuple(layers) for layers in self.layers.values()]

    def demonstration(self, example: WorkedExample) -> str:
        """Return the example in the first format."""
        return self._demonstration(example, 0)

    def demonstrations(self, examples: Sequence[WorkedExample]) -> list[str]:
        """Return each example in the next format, with directives where the policy must learn their form."""
        return [self._demonstration(example, place) for place, example in enumerate(examples)]

    def _demonstration(self, example: WorkedExample, place: int) -> str:
        name, one = list(self.formats.items())[place % len(self.formats)]
        written = f"{one.heading}\n{one.demonstration(example)}"
        if self.written == "slots":  # an example of the choices would be copied, and nothing else tried
            return written
        said = {key: options[place % len(options)] for key, options in self.menus.items()} | {"format": name}
        texts = {k: json.dumps(o, ensure_ascii=False) if k in _NAMED else o for k, o in said.items()}
        line = "{" + ", ".join(f"{json.dumps(key)}: {option}" for key, option in texts.items()) + "}"
        return f"{line}\n\n{written}"

    def stops(self, style: Style) -> tuple[str, ...]:
        """Return the stop strings of this and of all named formats."""
        return tuple(dict.fromkeys((*super().stops(style), *(s for one in self.formats.values() for s in one.stop))))
