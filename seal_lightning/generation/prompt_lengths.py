"""Token ids of prompts with their targets, checked against the length of the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import ChatMessage, ExamPrompt, ScoreRequest, Task
from seal_lightning.core.errors import DataError, shown
from seal_lightning.core.interfaces import AnyDomain
from seal_lightning.generation.constrained import SchemaTokens
from seal_lightning.models.language_model import LanguageModel

_MAX_NAMED = 3


def encode_prompt_and_target(
    request: ScoreRequest, language_model: LanguageModel, max_length: int
) -> tuple[list[int], list[int]]:
    """Return the ids of prompt and target; after a chat, the target is an answer, stripped as the template strips it.

    Raises :class:`DataError` where they are more than ``max_length`` tokens together.
    """
    prompt = language_model.encode_prompt(request.prompt)
    if isinstance(request.prompt, str):
        target = language_model.encode_text(request.target)
    else:
        answer = ChatMessage(role="assistant", content=request.target)
        target = language_model.encode_chat((*request.prompt, answer), answer_next=False)[-2]
    if len(prompt) + len(target) > max_length:
        raise DataError(
            f"a prompt of {len(prompt)} tokens and its answer of {len(target)} do not fit the model's context of "
            f"{max_length}: {shown(request.target)}"
        )
    return prompt, target


def check_prompts_fit(
    domain: AnyDomain,
    tasks: Sequence[Task],
    language_model: LanguageModel,
    *,
    student: LanguageModel | None = None,
    in_context: bool = False,
) -> None:
    """Check that tasks' prompts fit the model's context, before hours of work.

    Args:
        domain: makes the prompts: for an edit, with the longest text of its schema, and of the exam, with gold answers.
        tasks: the tasks.
        language_model: the model that writes edits.
        student: the model that takes the exam, if it is another one.
        in_context: whether the exam with the context in the prompt is checked too.

    Raises :class:`DataError`, naming the tasks that do not fit.
    """
    found = {
        task.task_id: excess
        for task in tasks
        if (excess := _excess(domain, task, language_model, student or language_model, in_context))
    }
    if found:
        named = "; ".join(f"{task_id}: {excess}" for task_id, excess in list(found.items())[:_MAX_NAMED])
        raise DataError(
            f"{len(found)} of {len(tasks)} tasks do not fit the model's context: {named}"
            f"{' …' if len(found) > _MAX_NAMED else ''}. Leave them out (ARC: task_ids, max_side), split passages, "
            "use fewer worked examples, or a model with a longer context"
        )


def _excess(
    domain: AnyDomain, task: Task, writer: LanguageModel, student: LanguageModel, in_context: bool
) -> str | None:
    """Return a description of the task's most oversized prompt; None if all fit."""
    schema = domain.edit_schema(task)
    constrained = 0 if schema is None else SchemaTokens(schema, writer).longest
    length = len(writer.prompt_ids(domain.edit_prompt(task))) + constrained
    found = [("prompt for an edit", length, writer.max_length)]
    exams = {"exam": domain.exam(task), "exam in context": domain.in_context_exam(task) if in_context else ()}
    for name, prompts in exams.items():
        found.append((name, max((_length(prompt, student) for prompt in prompts), default=0), student.max_length))
    name, length, limit = max(found, key=lambda one: one[1] - one[2])
    return f"its {name} has {length} tokens, the context {limit}" if length >= limit else None


def _length(prompt: ExamPrompt, language_model: LanguageModel) -> int:
    return len(language_model.prompt_ids(prompt.prompt)) + len(language_model.encode_text(prompt.target))
