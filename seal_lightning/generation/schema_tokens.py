"""A text schema as tokens: after each token, which may come next.

Literals and options are tokenised apart. A choice is a trie of its options' ids; what follows it is the same place whatever
option was taken, so a schema is as large as it reads, however many texts it allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seal_lightning.core import Choice, FreeText, TextSchema
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.models.language_model import LanguageModel


@dataclass(kw_only=True, eq=False)
class Place:
    """A place between tokens: where several may follow, the model chooses; where none may, the text is over."""

    edges: dict[int, Edge] = field(default_factory=dict)
    """By the token id that leads away."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """A token on its way to the next place."""

    to: Place
    filled: tuple[str, str] | None = None
    """The choice's name and the option, where this token settles it."""


class SchemaTokens:
    """A schema for one model, up to its free text, if it has one.

    Raises :class:`ConfigError` for a schema with free text before its end, with two choices of one name or with options
    that tokens do not tell apart: where an option begins another (``1`` and ``10``), what follows must be a literal, or the
    end, whose first token does not go on with the longer one.
    """

    def __init__(self, schema: TextSchema, language_model: LanguageModel) -> None:
        last = schema[-1] if schema else None
        self.free_text = last if isinstance(last, FreeText) else None
        before = schema if self.free_text is None else schema[:-1]
        self.parts = tuple(part for part in before if not isinstance(part, FreeText) and part != "")
        names = [part.name for part in self.parts if isinstance(part, Choice)]
        if len(set(names)) < len(names):
            raise ConfigError(f"the choices of a text schema must each be of its own name; they are {shown(names)}")
        if not schema:
            raise ConfigError("a text schema is empty; it needs a literal, a choice or free text")
        self._check_free_text(before)
        self._end_id = language_model.eos_ids[0]
        texts = {text for part in self.parts for text in ([part] if isinstance(part, str) else part.options)}
        texts |= {opening for _, opening in (self.free_text.prefixes if self.free_text else ())}
        self._ids = {text: tuple(language_model.encode_text(text)) for text in texts}
        self.start = self._first_place()

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text it allows, the end token included."""
        return 1 + sum(
            len(self._ids[part]) if isinstance(part, str) else max(len(self._ids[option]) for option in part.options)
            for part in self.parts
        )

    @property
    def max_opening_tokens(self) -> int:
        """Tokens of the longest opening of the free text."""
        return max(
            (len(self._ids[opening]) for _, opening in (self.free_text.prefixes if self.free_text else ())), default=0
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest text up to where free text begins."""
        return self.max_tokens + self.max_opening_tokens

    @property
    def has_choices(self) -> bool:
        """Whether there is anything to choose before the free text."""
        return any(isinstance(part, Choice) for part in self.parts)

    def _check_free_text(self, before: TextSchema) -> None:
        if any(isinstance(part, FreeText) for part in before):
            raise ConfigError("a text schema has free text before its end; what follows would never be reached")
        if self.free_text is None or self.free_text.choice is None:
            return
        choices = {part.name: part.options for part in self.parts if isinstance(part, Choice)}
        options = choices.get(self.free_text.choice, ())
        if unknown := [option for option, _ in self.free_text.prefixes if option not in options]:
            raise ConfigError(
                f"a text schema's free text depends on {shown(unknown[0])}, which is no option of a choice "
                f"{shown(self.free_text.choice)} before it"
            )

    def text(self, choices: Mapping[str, str]) -> str:
        """The text with its choices filled in, by name; without the free text."""
        return "".join(part if isinstance(part, str) else choices[part.name] for part in self.parts)

    def token_ids(self, choices: Mapping[str, str]) -> tuple[int, ...]:
        """The text's ids and the end token. Raises :class:`ConfigError` unless each choice has one of its options."""
        options = {part.name: part.options for part in self.parts if isinstance(part, Choice)}
        if choices.keys() != options.keys() or any(choices[name] not in options[name] for name in options):
            raise ConfigError(f"choices: {shown(dict(choices))} does not fill in the schema's {shown(options)}")
        texts = [part if isinstance(part, str) else choices[part.name] for part in self.parts]
        return (*(token for text in texts for token in self._ids[text]), self._end_id)

    def _first_place(self) -> Place:
        """Made from the end: each part leads to the place before the next one."""
        # Free text could begin as the longer of two options goes on, so the end token does not part them there.
        place, choice_follows = self._literal((self._end_id,), Place()), self.free_text is not None
        for part in reversed(self.parts):
            if isinstance(part, str):
                place = self._literal(self._ids[part], place)
            else:
                options = {self._ids[option]: option for option in part.options}
                if len(options) < len(part.options) or () in options:
                    raise ConfigError(f"choice {part.name!r}: tokens do not tell its options apart: {part.options}")
                place = self._trie(part.name, options, place, choice_follows)
            choice_follows = isinstance(part, Choice)
        return place

    @staticmethod
    def _literal(ids: tuple[int, ...], after: Place) -> Place:
        for token in reversed(ids):
            after = Place(edges={token: Edge(to=after)})
        return after

    def _trie(self, name: str, endings: dict[tuple[int, ...], str], after: Place, choice_follows: bool) -> Place:
        """The place where ``endings`` are what is left of the options."""
        place = Place()
        for token in dict.fromkeys(ids[0] for ids in endings if ids):
            rest = {ids[1:]: option for ids, option in endings.items() if ids and ids[0] == token}
            if rest.keys() == {()}:
                place.edges[token] = Edge(to=after, filled=(name, rest[()]))
            else:
                place.edges[token] = Edge(to=self._trie(name, rest, after, choice_follows))
        if () in endings:  # an option that begins another: the token behind it says that it is over
            if choice_follows or after.edges.keys() & place.edges.keys():
                raise ConfigError(
                    f"choice {name!r}: the schema is ambiguous, since {endings[()]!r} begins another option and what "
                    "follows does not tell them apart; put a literal behind the choice that no option goes on with"
                )
            ended = (name, endings[()])
            place.edges |= {token: Edge(to=edge.to, filled=ended) for token, edge in after.edges.items()}
        return place


class Walk:
    """One text on its way through a schema: it takes tokens that are given by itself, and waits at choices."""

    def __init__(self, schema: SchemaTokens) -> None:
        self.token_ids: list[int] = []
        self.chosen: list[bool] = []
        """For each token, whether others were allowed."""
        self.choices: dict[str, str] = {}
        """Options settled so far, by the choice's name."""
        self.log_prob = 0.0
        """Of the tokens chosen so far (nats)."""
        self._place = schema.start
        self._go_on()

    @property
    def allowed(self) -> list[int]:
        """The tokens of which one must be taken; none when the text is over."""
        return list(self._place.edges)

    @property
    def num_chosen(self) -> int:
        """Tokens chosen so far."""
        return sum(self.chosen)

    def take(self, token: int, log_prob: float) -> None:
        """Take an allowed token, which had this log-probability, and what is given after it."""
        self.log_prob += log_prob
        self._step(token, chosen=True)
        self._go_on()

    def _go_on(self) -> None:
        while len(self._place.edges) == 1:
            self._step(next(iter(self._place.edges)), chosen=False)

    def _step(self, token: int, *, chosen: bool) -> None:
        edge = self._place.edges[token]
        self.token_ids.append(token)
        self.chosen.append(chosen)
        if edge.filled is not None:
            self.choices[edge.filled[0]] = edge.filled[1]
        self._place = edge.to
