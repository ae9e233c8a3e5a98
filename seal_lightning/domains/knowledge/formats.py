"""The prompt formats of §3.2 and Appendix B: the request to the policy, and the split of its answer into sequences.

All wording is ours, and every part of it is a setting. A new format is a subclass of :class:`PromptFormat`, named by
``class_path`` in YAML.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from seal_lightning.core import ChatMessage, TextSchema
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError, MalformedEdit, shown
from seal_lightning.domains.knowledge import splitting
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.worked_examples import WorkedExample

Style = Literal["base", "chat"]
"""``base``: text that a base model continues; ``chat``: turns for a model's chat template."""


@dataclass(frozen=True, kw_only=True)
class UpdateDirectives:
    """An edit's own choices of its training; None leaves a choice to the domain."""

    format: PromptFormat | None
    """Splits the text into sequences; None: the edit has no text, and only the passage is learned."""
    text: str = ""
    """The text to be learned."""
    learning_rate: float | None = None
    num_epochs: int | None = None
    passage_weight: int | None = None
    """Copies of the passage among the sequences."""
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptFormat(Configurable, ABC):
    """Base of the prompt formats: the request for an edit of a passage, and the split of the edit.

    A base prompt is the instruction, the passage with its title, and a heading that the model continues. Worked
    examples precede it in the same form, each closed by a line that also ends the edit. A chat prompt is one user turn
    of instruction and passage; worked examples are earlier pairs of turns.

    Example:
        >>> class Summary(PromptFormat):
        ...     def demonstration(self, example):
        ...         return example.implications[0]
        >>> Summary(instruction="Summarise the passage.", heading="Summary:").split("One.\\nTwo.")
        ['One.', 'Two.']

    """

    instruction: str
    heading: str
    """Ends a base prompt, for example ``Implications:``; a chat prompt has none."""
    passage_heading: str = "Passage:"
    num_examples: int = 0
    """≥ 0: worked examples in the prompt, from the start of the file. Small models need them."""
    example_separator: str = "==="
    """The line between worked examples of a base prompt. It must not be a line of dashes, which separates sequences."""
    stop: tuple[str, ...] = ()
    """Strings at which an edit ends, besides the separator of worked examples."""
    one_sequence: bool = False
    """Split an edit only at lines of dashes (continued pretraining in v2 of the paper)."""
    strip_numbering: bool = False
    """Drop a leading "1. " or "- " of every sequence. The paper keeps them."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        name = type(self).__name__
        if self.num_examples < 0:
            raise ConfigError(f"{name}: num_examples is {shown(self.num_examples)}; allowed is 0 or more")
        separator = self.example_separator.strip()
        if not separator or not separator.strip("-"):
            raise ConfigError(
                f"{name}: example_separator is {shown(self.example_separator)}; "
                "it must not be blank or all dashes, which separate the sequences of an edit"
            )
        if any(not text for text in self.stop):
            raise ConfigError(f"{name}: stop is {shown(self.stop)}; a stop string must not be empty")

    @property
    def request(self) -> str:
        """The text of a prompt before the passage."""
        return self.instruction

    @abstractmethod
    def demonstration(self, example: WorkedExample) -> str:
        """Return the edit of a worked example in this format."""

    def demonstrations(self, examples: Sequence[WorkedExample]) -> list[str]:
        """Return the edits of the prompt's worked examples."""
        return [self.demonstration(example) for example in examples]

    def schema(self) -> TextSchema | None:
        """Return the schema of every edit, its choices and its free end; None: all of it is free."""
        return None

    def directives(self, text: str) -> UpdateDirectives:
        """Return an edit's own choices of its training; by default none. Raises :class:`MalformedEdit`."""
        return UpdateDirectives(format=self, text=text)

    def layer_options(self) -> Sequence[tuple[int, ...]]:
        """Return the sets of layers that an edit may choose from."""
        return ()

    def pieces(self, text: str) -> list[str]:
        """Split the trained text into pieces; by default its lines."""
        return splitting.lines(text)

    def trained_part(self, text: str) -> str:
        """Return the trained part of an edit; by default all of it. Raises :class:`MalformedEdit`."""
        return text

    def split(self, text: str) -> list[str]:
        """Return the texts of an edit's sequences, in order, none blank. Raises :class:`MalformedEdit`."""
        trained = self.trained_part(splitting.readable(text))
        if self.one_sequence:
            found = splitting.blocks(trained)
        else:
            found = self.pieces(splitting.without_chatty_opening(trained))
        if self.strip_numbering:
            found = [splitting.without_list_marker(piece) for piece in found]
        return [piece for piece in found if piece]

    def base_prompt(self, passage: Passage, examples: Sequence[WorkedExample] = ()) -> str:
        """Return the text that a base model continues; it ends with the heading and a line end."""
        written = self.demonstrations(examples[: self.num_examples])
        shown_edits = [f"{self.heading}\n{edit}".lstrip() for edit in written]
        shots = [
            f"{_join(self._passage(e.title, e.context), edit)}\n\n{self.example_separator}\n\n"
            for e, edit in zip(examples, shown_edits, strict=False)
        ]
        last = _join(self._passage(passage.title, passage.context), self.heading)
        return _join(self.request, "".join([*shots, last])) + "\n"

    def chat_prompt(self, passage: Passage, examples: Sequence[WorkedExample] = ()) -> tuple[ChatMessage, ...]:
        """Return the turns of a chat; the last is the user's."""
        turns: list[ChatMessage] = []
        demonstrated = examples[: self.num_examples]
        for example, edit in zip(demonstrated, self.demonstrations(demonstrated), strict=True):
            turns += [self._user_turn(example.title, example.context)]
            turns += [ChatMessage(role="assistant", content=edit)]
        return (*turns, self._user_turn(passage.title, passage.context))

    def stops(self, style: Style) -> tuple[str, ...]:
        """Return the stop strings of an edit."""
        if style == "base" and self.num_examples:
            return (*self.stop, f"\n{self.example_separator}")
        return self.stop

    def _user_turn(self, title: str, context: str) -> ChatMessage:
        return ChatMessage(role="user", content=_join(self.request, self._passage(title, context)))

    def _passage(self, title: str, context: str) -> str:
        body = f"{title}\n{context}"
        return f"{self.passage_heading}\n{body}" if self.passage_heading else body


@dataclass(frozen=True, kw_only=True)
class Implications(PromptFormat):
    """List of statements that follow from the passage: the format of the paper's main results.

    Example:
        >>> Implications(strip_numbering=True).split("Sure!\\n1. Nine arches.\\n2. One bridge.")
        ['Nine arches.', 'One bridge.']

    """

    instruction: str = (
        "Study the passage below and list what follows from it, whether it is said outright or can be inferred. "
        "Write one statement a line; each must make sense to someone who has not seen the passage."
    )
    heading: str = "Implications:"

    def demonstration(self, example: WorkedExample) -> str:
        """Return the example's implications as a numbered list."""
        return _numbered(example.implications)


@dataclass(frozen=True, kw_only=True)
class ImplicationsLong(Implications):
    """As :class:`Implications`, with a request for a long list.

    Example:
        >>> ImplicationsLong().heading
        'Implications:'

    """

    instruction: str = (
        "Study the passage below and make a long list of what follows from it, whether it is said outright or can be "
        "inferred. Leave no fact out. Write one statement a line; each must make sense to someone who has not seen the "
        "passage."
    )


@dataclass(frozen=True, kw_only=True)
class ImplicationsVeryLong(Implications):
    """As :class:`Implications`, with a request for as long a list as possible.

    Example:
        >>> ImplicationsVeryLong(num_examples=1).num_examples
        1

    """

    instruction: str = (
        "Study the passage below and make an exhaustive list of what follows from it, as long as you can: every fact, "
        "every consequence, every connection between facts, and what each of them suggests beyond the passage. Go on "
        "when you think you are done. Write one statement a line; each must make sense to someone who has not seen the "
        "passage."
    )


@dataclass(frozen=True, kw_only=True)
class Rewrites(PromptFormat):
    """Several rewrites of the passage.

    Example:
        >>> Rewrites().split("It has nine arches.\\n---\\nNine arches carry it.")
        ['It has nine arches.', 'Nine arches carry it.']

    """

    instruction: str = (
        "Study the passage below and tell it anew several times. Let each version use other words, another order or "
        "another form, and keep all facts. Put a line with three dashes (---) between versions."
    )
    heading: str = "Versions:"

    def demonstration(self, example: WorkedExample) -> str:
        """Return the example's versions, with lines of dashes between."""
        return "\n---\n".join(example.rewrites)

    def pieces(self, text: str) -> list[str]:
        """Split the text into versions."""
        return splitting.versions(text)


@dataclass(frozen=True, kw_only=True)
class SelfQA(PromptFormat):
    """Questions on the passage with their answers.

    Example:
        >>> SelfQA().split("Question 1: How many?\\nAnswer: Nine.\\nQuestion 2: Of what?\\nAnswer: Stone.")[1]
        'Question 2: Of what?\\nAnswer: Stone.'

    """

    instruction: str = (
        "Study the passage below and write questions on it with their answers, so that all of its facts are asked for. "
        'Start a line with "Question 1:", "Question 2:" and so on for each question, and the next line with "Answer:".'
    )
    heading: str = "Questions and answers:"

    def demonstration(self, example: WorkedExample) -> str:
        """Return the example's questions and answers."""
        pairs = enumerate(example.self_qa, start=1)
        return "\n\n".join(f"Question {number}: {question}\nAnswer: {answer}" for number, (question, answer) in pairs)

    def pieces(self, text: str) -> list[str]:
        """Split the text into questions, each with its answer."""
        return splitting.question_answer_pairs(text)


@dataclass(frozen=True, kw_only=True)
class ChainOfThought(PromptFormat):
    """Thoughts first, then the implications; only the implications are trained on.

    Example:
        >>> ChainOfThought().split("It is about arches.\\n\\nImplications:\\n1. Nine arches.")
        ['1. Nine arches.']

    """

    instruction: str = (
        "Study the passage below. First think aloud: what is it about, what matters in it, and what can be inferred "
        'from it? Then write a line with only "Implications:" and under it list what follows from the passage, one '
        "statement a line; each must make sense to someone who has not seen the passage."
    )
    heading: str = "Thoughts:"
    conclusion_heading: str = "Implications:"
    """The line before the trained part; the instruction must request the same line."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if not any(character.isalnum() for character in self.conclusion_heading):
            raise ConfigError(
                f"ChainOfThought: conclusion_heading is {shown(self.conclusion_heading)}; it must have a word"
            )

    def demonstration(self, example: WorkedExample) -> str:
        """Return the example's thoughts and implications."""
        return f"{example.reasoning}\n\n{self.conclusion_heading}\n{_numbered(example.implications)}"

    def trained_part(self, text: str) -> str:
        """Return the text after the conclusion heading. Raises :class:`MalformedEdit` if it is missing."""
        conclusion = splitting.after_heading(text, self.conclusion_heading)
        if conclusion is None:
            raise MalformedEdit("no conclusion", f"no line starts with {shown(self.conclusion_heading)}")
        return conclusion


@dataclass(frozen=True, kw_only=True)
class NoInstruction(PromptFormat):
    """The passage alone, without any request.

    Example:
        >>> passage = Passage.named(title="Bridge", context="It has nine arches.", questions=())
        >>> NoInstruction().base_prompt(passage)
        'Bridge\\nIt has nine arches.\\n'

    """

    instruction: str = ""
    heading: str = ""
    passage_heading: str = ""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if self.num_examples:
            raise ConfigError(f"NoInstruction: num_examples is {self.num_examples}; this format has none, allowed is 0")

    def demonstration(self, example: WorkedExample) -> str:
        """Raise :class:`ConfigError`: this format has no worked examples."""
        raise ConfigError("NoInstruction has no worked examples")


def _join(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _numbered(statements: Iterable[str]) -> str:
    return "\n".join(f"{number}. {statement}" for number, statement in enumerate(statements, start=1))
