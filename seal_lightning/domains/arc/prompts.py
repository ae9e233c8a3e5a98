"""Prompts of ARC: puzzles as chats, and the request for a self-edit."""

from __future__ import annotations

from seal_lightning.core import ChatMessage, Prompt, Segment, TrainingSequence
from seal_lightning.domains.arc.augmenters import Puzzle
from seal_lightning.domains.arc.edits import Loss, SchemaName
from seal_lightning.domains.arc.grids import ArcTask, Demonstration, Grid, GridText

_TOOLS = {
    "paper": (
        "use_basic_augmentations: rotations, flips, mirrored copies, shifts, transposition",
        "use_size_augmentations: grids twice as large, high or wide",
        "use_chain_augmentations: a rotation, flip or transposition, then twice as large",
        "use_repeat_augmentations: copies side by side",
    ),
    "extended": ("use_geometric_augmentations: rotations, flips and transposition only",),
}
_LEARNT = {"paper": "all, or the last output only", "extended": "the last output, all outputs or all"}
"""The strategies without their names: a small model takes the first name it is shown."""
_NAMED = {
    "paper": "train_using_all_tokens, or train_using_output_tokens for the last output only",
    "extended": "train_using_output_tokens for the last one, train_using_all_outputs or train_using_all_tokens",
}
"""The same with their names, for a model that writes the edit freely and cannot guess them."""


def solving_prompt(instruction: str, shown: tuple[Demonstration, ...], query: Grid, text: GridText) -> Prompt:
    """Write a puzzle as a chat: inputs are user turns, outputs assistant turns; the query is the last user turn."""
    turns = [ChatMessage(role="system", content=instruction)] if instruction else []
    for demonstration in shown:
        turns.append(ChatMessage(role="user", content=text.encode(demonstration.input)))
        turns.append(ChatMessage(role="assistant", content=text.encode(demonstration.output)))
    return (*turns, ChatMessage(role="user", content=text.encode(query)))


def training_sequence(instruction: str, puzzle: Puzzle, loss: Loss, text: GridText) -> TrainingSequence:
    """Write the same chat with the query's answer, and mark the trained turns."""
    prompt = solving_prompt(instruction, puzzle.demonstrations, puzzle.query.input, text)
    assert not isinstance(prompt, str)
    every = loss == "all_tokens"
    segments = [
        Segment(
            text=turn.content,
            role=turn.role,
            trained=every or (loss == "all_outputs" and turn.role == "assistant"),
        )
        for turn in prompt
    ]
    answer = Segment(text=text.encode(puzzle.query.output), role="assistant", trained=True)
    return TrainingSequence(segments=(*segments, answer))


def demonstrations_text(task: ArcTask, text: GridText) -> str:
    """Write the demonstrations, one below the other."""
    return "\n\n".join(
        f"Input:\n{text.encode(one.input)}\nOutput:\n{text.encode(one.output)}" for one in task.demonstrations
    )


def edit_prompt(task: ArcTask, schema: SchemaName, text: GridText, constrained: bool) -> Prompt:
    """Write the demonstrations, the tools and the request for an edit in JSON (§4.2)."""
    examples = demonstrations_text(task, text)
    kinds: tuple[SchemaName, ...] = ("paper",) if schema == "paper" else ("paper", "extended")
    tools = "\n".join(f"- {line}" for kind in kinds for line in _TOOLS[kind])
    learnt = _LEARNT[schema] if constrained else _NAMED[schema]
    version = ' It begins with "version": 2.' if schema == "extended" else ""
    asked = (
        "A small model will be finetuned on a puzzle before it solves it. Choose how.\n\n"
        f"The puzzle's examples:\n\n{examples}\n\n"
        f'Under "data_generation", true or false for each way to make more examples:\n{tools}\n'
        f'Under "training", a "strategy" (which tokens to learn: {learnt}), a "learning_rate" (a number) and '
        f'"num_train_epochs" (an integer).\n\nAnswer with one JSON object and nothing else.{version}'
    )
    return (ChatMessage(role="user", content=asked),)
