"""A text schema as tokens: after each token, which may come next.

Literals and options are tokenised apart. A choice is a trie of its options' ids; what follows it is the same place whatever
option was taken, so a schema is as large as it reads, however many texts it allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seal_lightning.core import Choice, Completion, FinishReason, FreeText, TextSchema
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.distributed import interruption
from seal_lightning.generation.decoding import keep_rows, left_padded, one_row_each, positions, preallocated_cache
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, routed


@dataclass(frozen=True, kw_only=True)
class OpenedText:
    """What stands before the free text: slots filled in, without the end token, and the opening."""

    filled: Completion
    text: str
    token_ids: tuple[int, ...]
    chosen: tuple[bool, ...]

    @classmethod
    def of(cls, filled: Completion, opening: str, language_model: LanguageModel) -> OpenedText:
        """A completion of :func:`~seal_lightning.generation.constrained.fill_slots`, which always ends, goes on."""
        assert filled.chosen is not None
        given = tuple(language_model.encode_text(opening)) if opening else ()
        return cls(
            filled=filled,
            text=filled.text + opening,
            token_ids=(*filled.token_ids[:-1], *given),
            chosen=(*filled.chosen[:-1], *(False for _ in given)),
        )

    def followed_by(self, written: Completion) -> Completion:
        """The whole: choices and their log-probability are the slots', the end is the free text's."""
        return replace(
            self.filled,
            text=self.text + written.text,
            token_ids=(*self.token_ids, *written.token_ids),
            chosen=(*self.chosen, *(True for _ in written.token_ids)),
            finish_reason=written.finish_reason,
        )


@dataclass(frozen=True, kw_only=True)
class SlotRow:
    """One request of a batch."""

    index: int
    prompt: list[int]
    schema: SchemaTokens
    adapter: LoraAdapter | None
    temperature: float = 1.0
    seed: int = 0
    given: tuple[int, ...] | None = None
    """The completion's ids, where only their probability is asked for."""


@torch.no_grad()
def fill_slots(rows: Sequence[SlotRow], language_model: LanguageModel) -> list[Completion]:
    """One completion a row, in order; rows with the same adapter should be neighbours."""
    if len(rows) > 1 and _holes_matter(rows, language_model):
        return [completion for row in rows for completion in fill_slots([row], language_model)]
    choosing = [row for row in rows if row.schema.has_choices]
    walked = iter(_Batch(choosing, language_model).walked() if choosing else [])
    walks = [next(walked) if row.schema.has_choices else Walk(row.schema) for row in rows]
    return [
        Completion(
            text=row.schema.text(walk.choices),
            token_ids=tuple(walk.token_ids),
            finish_reason=FinishReason.STOP,
            chosen=tuple(walk.chosen),
            choices=walk.choices,
            log_prob=walk.log_prob,
        )
        for row, walk in zip(rows, walks, strict=True)
    ]


def _holes_matter(rows: Sequence[SlotRow], language_model: LanguageModel) -> bool:
    """Whether a sliding window, which counts columns and so holes too, is shorter than what it slides over."""
    windows = [getattr(layer, "sliding_window", None) for layer in preallocated_cache(language_model.model).layers]
    longest = max(len(row.prompt) + row.schema.max_tokens for row in rows)
    return any(window is not None and window < longest for window in windows)


class _Batch:
    """Rows that are walked through their schemas together."""

    def __init__(self, rows: Sequence[SlotRow], language_model: LanguageModel) -> None:
        self.language_model = language_model
        self.rows = rows
        self.walks = [Walk(row.schema) for row in rows]
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        self.draws = [
            torch.rand(row.schema.max_tokens, generator=generator, dtype=torch.float64)
            for row, generator in zip(rows, generators, strict=True)
        ]
        self.num_fed = [len(walk.token_ids) for walk in self.walks]
        self.going = list(range(len(rows)))
        """Rows whose text is not over, in the order of the cache's."""
        self.cache = preallocated_cache(language_model.model)

    def walked(self) -> list[Walk]:
        """Every row to its end."""
        mask_BT, logits_BV = self._first_pass()
        while True:
            self._choose(logits_BV)
            kept = [place for place, i in enumerate(self.going) if self.walks[i].allowed]
            if not kept:
                return self.walks
            if len(kept) < len(self.going):
                self.going = [self.going[place] for place in kept]
                mask_BT = mask_BT[kept]
                keep_rows(self.cache, kept, mask_BT.device)
            mask_BT, logits_BV = self._pass_over_new_tokens(mask_BT)

    def _first_pass(self) -> tuple[Tensor, Tensor]:
        """Prompts and what comes before the first choice, computed once where rows share them (a task's k edits)."""
        starts = [row.prompt + walk.token_ids for row, walk in zip(self.rows, self.walks, strict=True)]
        keys = [(tuple(start), id(row.adapter)) for start, row in zip(starts, self.rows, strict=True)]
        first_row = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = sorted(first_row.values())
        ids_UT, mask_UT = self._padded([starts[i] for i in unique])
        logits_UV = self._forward(unique, ids_UT, mask_UT)
        place = {row: i for i, row in enumerate(unique)}
        repeats = [place[first_row[key]] for key in keys]
        if len(unique) < len(keys):
            keep_rows(self.cache, repeats, ids_UT.device)
        return mask_UT[repeats], logits_UV[repeats]

    def _pass_over_new_tokens(self, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """What each row took since the last pass; the attention mask grows by as many columns."""
        ids_BC, mask_BC = self._padded([self.walks[i].token_ids[self.num_fed[i] :] for i in self.going])
        for i in self.going:
            self.num_fed[i] = len(self.walks[i].token_ids)
        mask_BT = torch.cat([mask_BT, mask_BC], dim=1)
        return mask_BT, self._forward(self.going, ids_BC, mask_BT)

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return left_padded(ids, self.language_model.pad_id, self.language_model.device)

    def _forward(self, rows: Sequence[int], ids_BC: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits [B, V] behind each row's last token; keys and values are appended to the cache."""
        interruption.check()
        model = self.language_model.model
        with routed(model, one_row_each([self.rows[i].adapter for i in rows])):
            logits: Tensor = model(
                input_ids=ids_BC,
                attention_mask=mask_BT,
                position_ids=positions(mask_BT)[:, -ids_BC.shape[1] :],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1]

    def _choose(self, logits_BV: Tensor) -> None:
        """Let every row that is going take a token."""
        allowed = [self.walks[i].allowed for i in self.going]
        widest = max(map(len, allowed))
        index_BK = torch.tensor([tokens + tokens[:1] * (widest - len(tokens)) for tokens in allowed])
        logits_BK = logits_BV.gather(1, index_BK.to(logits_BV.device)).double().cpu()
        for i, tokens, logits_K in zip(self.going, allowed, logits_BK, strict=True):
            row, walk, logits = self.rows[i], self.walks[i], logits_K[: len(tokens)]
            if row.given is not None:
                option = tokens.index(row.given[len(walk.token_ids)])
            else:
                option = _drawn(logits, row.temperature, self.draws[i][walk.num_chosen])
            walk.take(tokens[option], float(torch.log_softmax(logits, dim=0)[option]))


def _drawn(logits_K: Tensor, temperature: float, draw: Tensor) -> int:
    """The option at a draw in [0, 1) of the allowed tokens' distribution; at temperature 0 the likeliest."""
    if temperature == 0:
        return int(logits_K.argmax())
    probs_K = torch.softmax((logits_K - logits_K.max()) / temperature, dim=0)
    return min(int((probs_K.cumsum(dim=0) <= draw).sum()), len(logits_K) - 1)


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
