"""``seal ask DIR "question"``: an adapted model's answer beside that of its base model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from seal_lightning.adapt.ask.comparing import SIDES, Compared, Side, compare
from seal_lightning.adapt.ask.models import AdaptedModels
from seal_lightning.adapt.ask.questions import AskedQuestion, asked_question
from seal_lightning.adapt.ask.sources import adapter_source
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.commands.ask_session import Session
from seal_lightning.cli.commands.shown_answers import print_beside
from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import ConfigError, DataError, require, shown

MAX_LINE_BYTES = 2**20
"""Of a question on standard input."""
MAX_SEED = 2**63 - 1


def main(args: Sequence[str]) -> int:
    """Exit code 0 when every question was answered, 1 when one was not (the others are), 2 for a usage error."""
    parser = _parser()
    options = parser.parse_intermixed_args(args)
    interactive = not options.question
    if interactive and (options.json or not (sys.stdin.isatty() and sys.stdout.isatty())):
        parser.error(
            "no question: give one, or `-` to read one a line from standard input (on a terminal, none: a session)"
        )
    require(0 <= options.seed <= MAX_SEED, "--seed", options.seed, f"from 0 to {MAX_SEED}")
    sampling = SamplingSpec(
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=1 if options.max_new_tokens is None else options.max_new_tokens,
    )
    # A terminal may be of fewer characters than a model's text, and what is typed may be no text: that is told later.
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
    except BrokenPipeError:  # `seal ask … | head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal ask",
        description="Ask an adapted model, and its base model beside it, as they are asked in an exam. Without a question, "
        "on a terminal: a session in which answers are shown as they are written.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="what `seal adapt` wrote, or a PEFT folder with a LoRA")
    parser.add_argument("question", nargs="*", metavar="QUESTION", help="`-` reads one a line from standard input")
    parser.add_argument(
        "--topic", default="", metavar="TITLE", help="the title of the document that the questions are on"
    )
    parser.add_argument("--only", choices=SIDES, help="one of the two answers")
    parser.add_argument("--json", action="store_true", help="one JSON object a question and line, for scripts")
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
    """Raises :class:`ConfigError` for a chat with a model that has no chat template."""
    wanted = asking if style is None else replace(asking, style="chat" if style == "chat" else "base")
    if wanted.style == "chat" and not models.has_chat:
        raise ConfigError("--style: 'chat' is not allowed: the base model's tokenizer has no chat template. Take base")
    return wanted


def _answer_all(
    models: AdaptedModels, asking: Asking, sampling: SamplingSpec, sides: Sequence[Side], options: argparse.Namespace
) -> int:
    """A question that cannot be asked is told on standard error; those behind it are asked."""
    console = Console()
    failed = num_answered = 0
    for place, given in _questions(options.question):
        try:
            if isinstance(given, DataError):
                raise given
            question = asked_question(given, asking, options.topic)
            compared = compare(models, question, sampling, options.seed, sides)
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
        raise DataError("standard input: there is no question; give one a line")
    return 1 if failed else 0


def _questions(given: Sequence[str]) -> Iterator[tuple[str, str | DataError]]:
    """Each question with its place, or why it is none. Blank lines of standard input are passed over."""
    for number, question in enumerate(given, start=1):
        if question != "-":
            yield f"question {number}", question
            continue
        for line_number, line in enumerate(iter(lambda: sys.stdin.buffer.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if line.strip():
                yield f"line {line_number}", _text_of(line)


def _text_of(line: bytes) -> str | DataError:
    if len(line) > MAX_LINE_BYTES:
        _skip_line(line)
        return DataError(f"the line has more than {MAX_LINE_BYTES} bytes; a question a line is read")
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return DataError(f"byte {error.start} of {shown(line, 60)} is no UTF-8. Give questions as UTF-8")


def _skip_line(line: bytes) -> None:
    """Read on to the end of a line whose beginning was read."""
    while line and not line.endswith(b"\n"):
        line = sys.stdin.buffer.readline(MAX_LINE_BYTES)


def _as_json(question: AskedQuestion, asking: Asking, compared: Compared) -> dict[str, object]:
    answers = {
        side: {
            "text": answer.text,
            "num_tokens": answer.num_tokens,
            "finish_reason": answer.finish_reason,
            "seconds": round(answer.seconds, 3),
        }
        for side, answer in compared.items()
    }
    return {
        "question": question.question,
        "topic": question.topic or None,
        "style": asking.style,
        **{side: answers.get(side) for side in SIDES},
    }
