"""``seal ask DIR "question"``: answers of an adapted model and of its base model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from rich.console import Console

from seal_lightning.adapt.ask.adapted_models import SIDES, AdaptedModels, Compared, Side
from seal_lightning.adapt.ask.adapter_sources import adapter_source
from seal_lightning.adapt.ask.questions import AskedQuestion, asked_question
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.commands.ask_session import Session
from seal_lightning.cli.commands.shown_answers import print_beside
from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import ConfigError, DataError, require, shown

MAX_SEED = 2**63 - 1


def main(args: Sequence[str]) -> int:
    """Return exit code 0 when every question was answered, 1 when one was invalid; 2 is a usage error."""
    parser = _parser()
    options = parser.parse_intermixed_args(args)
    interactive = not options.question
    if interactive and (options.json or not (sys.stdin.isatty() and sys.stdout.isatty())):
        parser.error(
            "no question: give one, or `-` to read one per line from standard input (without one on a terminal: a session)"
        )
    require(0 <= options.seed <= MAX_SEED, "--seed", options.seed, f"from 0 to {MAX_SEED}")
    sampling = SamplingSpec(
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=1 if options.max_new_tokens is None else options.max_new_tokens,
    )
    # A terminal may lack characters of a model's text, and typed bytes may not be text: that is reported per question.
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "surrogateescape"),
    ):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)
    source = adapter_source(options.dir)
    models = AdaptedModels.load([source], trust_remote_code=options.trust_remote_code)
    asking = _asking(models, models.asking(source), options.style)
    if options.max_new_tokens is None:
        sampling = replace(sampling, max_new_tokens=asking.max_answer_tokens)
    sides: tuple[Side, ...] = SIDES if options.only is None else (options.only,)
    if interactive:
        return Session(models, source.name, asking, sampling, options.seed, sides, options.topic).run()
    try:
        return _answer_all(models, asking, sampling, sides, options)
    except BrokenPipeError:  # `seal ask … | head` has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal ask",
        description="Ask an adapted model and its base model, as in an exam. Without a question, on a terminal: a session in "
        "which answers appear as they are written.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="what `seal adapt` wrote, or a PEFT folder with a LoRA")
    parser.add_argument("question", nargs="*", metavar="QUESTION", help="`-` reads one per line from standard input")
    parser.add_argument(
        "--topic", default="", metavar="TITLE", help="the title of the document that the questions are on"
    )
    parser.add_argument("--only", choices=SIDES, help="one of the two answers")
    parser.add_argument("--json", action="store_true", help="one JSON object per question and line, for scripts")
    how = parser.add_argument_group("how answers are written")
    how.add_argument("--max_new_tokens", type=int, metavar="N", help="default: as in the exams")
    how.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 (default) always takes the likeliest"
    )
    how.add_argument("--top_p", type=float, default=1.0, metavar="P", help="in (0, 1]; default: %(default)s")
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of what is sampled; default: %(default)s")
    how.add_argument("--style", choices=("base", "chat"), help="default: as in the exams")
    how.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    return parser


def _asking(models: AdaptedModels, asking: Asking, style: str | None) -> Asking:
    """Return how the model is asked. Raises :class:`ConfigError` for a chat without a chat template."""
    wanted = asking if style is None else replace(asking, style="chat" if style == "chat" else "base")
    if wanted.style == "chat" and not models.has_chat:
        raise ConfigError("--style: 'chat' needs a chat template, which the base model's tokenizer lacks; use base")
    return wanted


def _answer_all(
    models: AdaptedModels, asking: Asking, sampling: SamplingSpec, sides: Sequence[Side], options: argparse.Namespace
) -> int:
    """Answer all questions; an invalid one is reported on standard error and skipped."""
    console = Console()
    failed = num_answered = 0
    for place, given in _questions(options.question):
        try:
            try:
                text = given if isinstance(given, str) else given.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"byte {error.start} of {shown(given, 60)} is not UTF-8") from error
            question = asked_question(text, asking, options.topic)
            compared = {side: models.answer(question, side, sampling, seed=options.seed) for side in sides}
        except DataError as error:
            sys.stderr.write(f"seal ask: error: {place}: {error}\n")
            failed += 1
            continue
        num_answered += 1
        if options.json:
            sys.stdout.write(json.dumps(_as_json(question, asking, compared)) + "\n")
            sys.stdout.flush()
        else:
            print_beside(console, question.question, compared, is_first=num_answered == 1)
    if failed == num_answered == 0:
        raise DataError("standard input: there is no question; give one per line")
    return 1 if failed else 0


def _questions(given: Sequence[str]) -> Iterator[tuple[str, str | bytes]]:
    """Yield each question with its place; blank lines of standard input are skipped."""
    for number, question in enumerate(given, start=1):
        if question != "-":
            yield f"question {number}", question
            continue
        for line_number, line in enumerate(sys.stdin.buffer, start=1):
            if line.strip():
                yield f"line {line_number}", line


def _as_json(question: AskedQuestion, asking: Asking, compared: Compared) -> dict[str, object]:
    answers = {side: {**asdict(answer), "seconds": round(answer.seconds, 3)} for side, answer in compared.items()}
    return {
        "question": question.question,
        "topic": question.topic or None,
        "style": asking.style,
        **{side: answers.get(side) for side in SIDES},
    }
