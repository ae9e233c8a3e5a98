"""Constrained decoding: a schema's literals are given, and the model decides only at its choices.

Literals and options are tokenised separately. A choice is a trie of its options' ids; all options lead to the same node, so a
schema is as large as its source, however many texts it allows.

The tokens up to the next node with several continuations are fed as one chunk, so a batch takes as many passes as its longest
row has such nodes: one per choice, if its options differ in their first token. Rows take different options, hence chunks of
different lengths; they are padded on the left, and the pads, which stay in the cache as holes, are masked.

Shapes: B active rows, U rows with different prompts, T columns so far, C columns of a chunk, V vocabulary, K allowed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seal_lightning.core import Choice, Completion, FinishReason, FreeText, TextSchema
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.distributed import interruption
from seal_lightning.generation.row_batches import (
    keep_rows,
    left_padded,
    one_row_each,
    positions,
    preallocated_cache,
)
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, routed


@dataclass(kw_only=True, eq=False)
class Node:
    """A position between tokens: with several edges the model decides, without any the text is complete."""

    edges: dict[int, Edge] = field(default_factory=dict)
    """By the id of the next token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """A token that leads to the next node."""

    to: Node
    made: tuple[str, str] | None = None
    """The choice's name and the option, if this token completes the option."""


class SchemaTokens:
    """A schema as tokens of one model, up to its free text, if any.

    Raises :class:`ConfigError` for a schema with free text before its end, with two choices of one name, or with ambiguous
    options: where an option is a prefix of another (``1`` and ``10``), a literal (or the end) must follow whose first token
    does not continue the longer one.
    """

    def __init__(self, schema: TextSchema, language_model: LanguageModel) -> None:
        last = schema[-1] if schema else None
        self.free_text = last if isinstance(last, FreeText) else None
        before = schema if self.free_text is None else schema[:-1]
        self.parts = tuple(part for part in before if not isinstance(part, FreeText) and part != "")
        self.options = {part.name: part.options for part in self.parts if isinstance(part, Choice)}
        self._check(schema, before)
        self._end_id = language_model.eos_ids[0]
        prefixes = [prefix for _, prefix in self.free_text.prefixes] if self.free_text else []
        texts = {text for part in self.parts for text in ([part] if isinstance(part, str) else part.options)}
        self._ids = {text: tuple(language_model.encode_text(text)) for text in (*texts, *prefixes)}
        self.max_tokens = 1 + sum(
            len(self._ids[part]) if isinstance(part, str) else max(len(self._ids[option]) for option in part.options)
            for part in self.parts
        )
        """Tokens of the longest text that it allows, including the end token."""
        self.longest = self.max_tokens + max((len(self._ids[prefix]) for prefix in prefixes), default=0)
        """Tokens of the longest text up to where free text begins."""
        self.start = self._first_node()

    def _check(self, schema: TextSchema, before: TextSchema) -> None:
        names = [part.name for part in self.parts if isinstance(part, Choice)]
        if not schema:
            raise ConfigError("a text schema is empty; it needs a literal, a choice or free text")
        if len(set(names)) < len(names):
            raise ConfigError(f"the choices of a text schema must have different names; they are {shown(names)}")
        if any(isinstance(part, FreeText) for part in before):
            raise ConfigError("a text schema has free text before its end; move it to the end")
        if self.free_text is not None and self.free_text.choice is not None:
            options = self.options.get(self.free_text.choice, ())
            if unknown := [option for option, _ in self.free_text.prefixes if option not in options]:
                raise ConfigError(
                    f"a text schema's free text depends on {shown(unknown[0])}, which is not an option of a choice "
                    f"{shown(self.free_text.choice)} before it"
                )

    def text(self, choices: Mapping[str, str]) -> str:
        """Return the text with its choices filled in, by name; without the free text."""
        return "".join(part if isinstance(part, str) else choices[part.name] for part in self.parts)

    def token_ids(self, choices: Mapping[str, str]) -> tuple[int, ...]:
        """Return the text's ids and the end token. Raises :class:`ConfigError` unless each choice has one of its options."""
        if choices.keys() != self.options.keys() or any(choices[name] not in self.options[name] for name in choices):
            raise ConfigError(f"choices: {shown(dict(choices))} does not fill in the schema's {shown(self.options)}")
        texts = [part if isinstance(part, str) else choices[part.name] for part in self.parts]
        return (*(token for text in texts for token in self._ids[text]), self._end_id)

    def _first_node(self) -> Node:
        """Build the nodes from the end: each part leads to the node before the next one."""
        # Free text could begin with the continuation of the longer option, so the end token does not separate options there.
        node, choice_follows = self._literal((self._end_id,), Node()), self.free_text is not None
        for part in reversed(self.parts):
            if isinstance(part, str):
                node = self._literal(self._ids[part], node)
            else:
                options = {self._ids[option]: option for option in part.options}
                if len(options) < len(part.options) or () in options:
                    raise ConfigError(f"choice {part.name!r}: two options have the same tokens: {part.options}")
                node = self._trie(part.name, options, node, choice_follows)
            choice_follows = isinstance(part, Choice)
        return node

    @staticmethod
    def _literal(ids: tuple[int, ...], after: Node) -> Node:
        for token in reversed(ids):
            after = Node(edges={token: Edge(to=after)})
        return after

    def _trie(self, name: str, endings: dict[tuple[int, ...], str], after: Node, choice_follows: bool) -> Node:
        """Return the node at which ``endings`` are the rests of the options."""
        node = Node()
        for token in dict.fromkeys(ids[0] for ids in endings if ids):
            rest = {ids[1:]: option for ids, option in endings.items() if ids and ids[0] == token}
            if rest.keys() == {()}:
                node.edges[token] = Edge(to=after, made=(name, rest[()]))
            else:
                node.edges[token] = Edge(to=self._trie(name, rest, after, choice_follows))
        if () in endings:  # an option that is a prefix of another: the token after it shows that it is complete
            if choice_follows or after.edges.keys() & node.edges.keys():
                raise ConfigError(
                    f"choice {name!r}: the schema is ambiguous, since the option {endings[()]!r} is a prefix of another; "
                    "add a delimiter after the choice with which no option continues"
                )
            made = (name, endings[()])
            node.edges |= {token: Edge(to=edge.to, made=made) for token, edge in after.edges.items()}
        return node


class Walk:
    """One text on its way through a schema: it takes literals by itself, and waits at choices."""

    def __init__(self, schema: SchemaTokens) -> None:
        self.token_ids: list[int] = []
        self.chosen: list[bool] = []
        """For each token, whether others were allowed."""
        self.choices: dict[str, str] = {}
        """Options chosen so far, by the choice's name."""
        self.log_prob = 0.0
        """Of the tokens chosen so far (nats)."""
        self._node = schema.start
        self._take_literals()

    @property
    def allowed(self) -> list[int]:
        """The tokens of which one must be taken; empty when the text is complete."""
        return list(self._node.edges)

    def take(self, token: int, log_prob: float) -> None:
        """Take an allowed token, which had this log-probability, and the literals after it."""
        self.log_prob += log_prob
        self._step(token, chosen=True)
        self._take_literals()

    def _take_literals(self) -> None:
        while len(self._node.edges) == 1:
            self._step(next(iter(self._node.edges)), chosen=False)

    def _step(self, token: int, *, chosen: bool) -> None:
        edge = self._node.edges[token]
        self.token_ids.append(token)
        self.chosen.append(chosen)
        if edge.made is not None:
            self.choices[edge.made[0]] = edge.made[1]
        self._node = edge.to


@dataclass(frozen=True, kw_only=True)
class SchemaRow:
    """One request of a batch."""

    index: int
    prompt: list[int]
    schema: SchemaTokens
    adapter: LoraAdapter | None
    temperature: float = 1.0
    seed: int = 0
    given: tuple[int, ...] | None = None
    """The completion's ids, if only their probability is requested."""


@torch.no_grad()
def fill_schemas(rows: Sequence[SchemaRow], language_model: LanguageModel) -> list[Completion]:
    """Return one completion per row, in order; rows with the same adapter must be neighbours."""
    if len(rows) > 1 and _holes_matter(rows, language_model):
        return [completion for row in rows for completion in fill_schemas([row], language_model)]
    walks = [Walk(row.schema) for row in rows]
    undecided = [i for i, walk in enumerate(walks) if walk.allowed]
    if undecided:
        _SchemaBatch([rows[i] for i in undecided], [walks[i] for i in undecided], language_model).run()
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


def open_free_text(row: SchemaRow, filled: Completion, language_model: LanguageModel) -> Completion | None:
    """Return the filled-in text with the free text's prefix instead of the end token; None if no free text follows."""
    prefix = None if row.schema.free_text is None else row.schema.free_text.prefix(filled.choices or {})
    if prefix is None:
        return None
    assert filled.chosen is not None
    ids = tuple(language_model.encode_text(prefix)) if prefix else ()
    chosen = (*filled.chosen[:-1], *(False for _ in ids))
    return replace(filled, text=filled.text + prefix, token_ids=(*filled.token_ids[:-1], *ids), chosen=chosen)


def append_free_text(opened: Completion, written: Completion) -> Completion:
    """Return both texts as one completion, which ends as the free text does and has the choices' log-probability."""
    assert opened.chosen is not None
    return replace(
        opened,
        text=opened.text + written.text,
        token_ids=(*opened.token_ids, *written.token_ids),
        chosen=(*opened.chosen, *(True for _ in written.token_ids)),
        finish_reason=written.finish_reason,
    )


def _holes_matter(rows: Sequence[SchemaRow], language_model: LanguageModel) -> bool:
    """Return whether a sliding window, which counts columns including holes, is shorter than the longest row."""
    windows = [getattr(layer, "sliding_window", None) for layer in preallocated_cache(language_model.model).layers]
    longest = max(len(row.prompt) + row.schema.max_tokens for row in rows)
    return any(window is not None and window < longest for window in windows)


class _SchemaBatch:
    """Rows that walk through their schemas together."""

    def __init__(self, rows: Sequence[SchemaRow], walks: Sequence[Walk], language_model: LanguageModel) -> None:
        self.language_model = language_model
        self.rows = rows
        self.walks = walks
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        self.draws = [
            torch.rand(row.schema.max_tokens, generator=generator, dtype=torch.float64)
            for row, generator in zip(rows, generators, strict=True)
        ]
        self.num_fed = [len(walk.token_ids) for walk in walks]
        self.active = list(range(len(rows)))
        """Rows whose text is not complete, in the order of the cache's."""
        self.cache = preallocated_cache(language_model.model)

    def run(self) -> None:
        """Walk every row to its end."""
        mask_BT, logits_BV = self._first_pass()
        while True:
            self._choose(logits_BV)
            kept = [position for position, i in enumerate(self.active) if self.walks[i].allowed]
            if not kept:
                return
            if len(kept) < len(self.active):
                self.active = [self.active[position] for position in kept]
                mask_BT = mask_BT[kept]
                keep_rows(self.cache, kept, mask_BT.device)
            # Each row's new tokens; the attention mask grows by as many columns.
            ids_BC, mask_BC = self._padded([self.walks[i].token_ids[self.num_fed[i] :] for i in self.active])
            for i in self.active:
                self.num_fed[i] = len(self.walks[i].token_ids)
            mask_BT = torch.cat([mask_BT, mask_BC], dim=1)
            logits_BV = self._forward(self.active, ids_BC, mask_BT)

    def _first_pass(self) -> tuple[Tensor, Tensor]:
        """Read the prompts and the literals before the first choice, once for rows that share them (a task's k edits)."""
        starts = [row.prompt + walk.token_ids for row, walk in zip(self.rows, self.walks, strict=True)]
        keys = [(tuple(start), id(row.adapter)) for start, row in zip(starts, self.rows, strict=True)]
        first_row = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = sorted(first_row.values())
        ids_UT, mask_UT = self._padded([starts[i] for i in unique])
        logits_UV = self._forward(unique, ids_UT, mask_UT)
        position = {row: i for i, row in enumerate(unique)}
        repeats = [position[first_row[key]] for key in keys]
        if len(unique) < len(keys):
            keep_rows(self.cache, repeats, ids_UT.device)
        return mask_UT[repeats], logits_UV[repeats]

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return left_padded(ids, self.language_model.pad_id, self.language_model.device)

    def _forward(self, rows: Sequence[int], ids_BC: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the logits [B, V] after each row's last token; keys and values are appended to the cache."""
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
        """Let every active row take a token."""
        allowed = [self.walks[i].allowed for i in self.active]
        widest = max(map(len, allowed))
        index_BK = torch.tensor([tokens + tokens[:1] * (widest - len(tokens)) for tokens in allowed])
        logits_BK = logits_BV.gather(1, index_BK.to(logits_BV.device)).double().cpu()
        for i, tokens, logits_K in zip(self.active, allowed, logits_BK, strict=True):
            row, walk, logits = self.rows[i], self.walks[i], logits_K[: len(tokens)]
            if row.given is not None:
                option = tokens.index(row.given[len(walk.token_ids)])
            else:
                option = _sample(logits, row.temperature, self.draws[i][sum(walk.chosen)])
            walk.take(tokens[option], float(torch.log_softmax(logits, dim=0)[option]))


def _sample(logits_K: Tensor, temperature: float, draw: Tensor) -> int:
    """Return the option at a draw in [0, 1) of the allowed tokens' distribution; at temperature 0 the most likely one."""
    if temperature == 0:
        return int(logits_K.argmax())
    probs_K = torch.softmax((logits_K - logits_K.max()) / temperature, dim=0)
    return min(int((probs_K.cumsum(dim=0) <= draw).sum()), len(logits_K) - 1)
