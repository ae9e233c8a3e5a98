"""`seal ask`: both answers, for people, for scripts and on a terminal; and what it refuses."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from seal_lightning.adapt.ask.adapted_models import AdaptedModels, TimedAnswer
from seal_lightning.adapt.ask.adapter_sources import adapter_source
from seal_lightning.adapt.ask.questions import asked_question
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.commands.ask_session import Session, stop_on_interrupt
from seal_lightning.cli.commands.shown_answers import print_beside
from seal_lightning.cli.main import main
from seal_lightning.core import SamplingSpec

QUESTION = "What is the colour of the stone?"


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, object]]:
    assert main(["ask", *args, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_ask_json_equals_the_models_answers(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = asked(capsys, str(adapted), QUESTION, "--topic", "Stones", "And now?")
    models = AdaptedModels.load([adapter_source(adapted)])
    for found, question in ((first, QUESTION), (second, "And now?")):
        assert (found["question"], found["topic"], found["style"]) == (question, "Stones", "base")
        prompt = asked_question(question, Asking(), "Stones")
        for side, adapter in (("adapted", "minerals"), ("unadapted", None)):
            spec = SamplingSpec(temperature=0, top_p=1, max_new_tokens=12, stop=("\n",))
            expected = models.write(models.prompt_ids(prompt.prompt), spec, adapter)
            answer = found[side]
            assert isinstance(answer, dict)
            assert answer["text"] == expected.text.strip()
            assert answer["num_tokens"] == len(expected.token_ids)
            assert answer["finish_reason"] == expected.finish_reason.value
            assert answer["seconds"] >= 0
    assert first["adapted"] != first["unadapted"]


def test_samples_come_from_the_seed(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def texts(seed: str) -> list[object]:
        (found,) = asked(
            capsys, str(adapted), QUESTION, "--temperature", "1.5", "--seed", seed, "--max_new_tokens", "20"
        )
        return [found["adapted"]["text"], found["unadapted"]["text"]]  # type: ignore[index]

    assert texts("1") == texts("1") != texts("2")


def test_ask_only_and_style(adapted: Path, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = asked(capsys, str(adapted), QUESTION, "--only", "unadapted")
    assert found["adapted"] is None
    assert found["unadapted"]
    (found,) = asked(capsys, str(plain), QUESTION, "--max_new_tokens", "3")
    assert found["style"] == "chat"
    (base,) = asked(capsys, str(plain), QUESTION, "--max_new_tokens", "3", "--style", "base")
    assert base["style"] == "base"
    assert base["adapted"]["text"] != found["adapted"]["text"]  # type: ignore[index]


def with_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_ask_questions_from_a_pipe(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad lines are told by their number, and the others are answered."""
    content = b"\xef\xbb\xbfone?\r\n\n\xff\xfe\n" + b"why " * 400 + b"\nlast?"
    with_input(monkeypatch, content)
    assert main(["ask", str(adapted), "-", "--json", "--max_new_tokens", "2"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["question"] for line in out.splitlines()] == ["one?", "last?"]
    assert [line.split(":")[2].strip() for line in err.splitlines()] == ["line 3", "line 4"]
    for said, line in zip(("not UTF-8", "context length is 256"), err.splitlines(), strict=True):
        assert said in line


def test_ask_empty_pipe_is_an_error(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_input(monkeypatch, b"\n \n")
    assert main(["ask", str(adapted), "-"]) == 1
    assert "there is no question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([""], "the question is empty"),
        (["a\udcff"], "not valid Unicode"),
        (["Why?", "--max_new_tokens", "0"], "sampling.max_new_tokens"),
        (["Why?", "--temperature", "-1"], "sampling.temperature"),
        (["Why?", "--temperature", "nan"], "sampling.temperature"),
        (["Why?", "--top_p", "0"], "sampling.top_p"),
        (["Why?", "--seed", "-1"], "--seed"),
        (["Why?", "--seed", str(2**63)], "--seed"),
        (["Why?", "--topic", "\ud800"], "the topic"),
    ],
)
def test_ask_invalid_input_is_one_error(
    adapted: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(adapted), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seal ask: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_ask_chat_needs_a_template(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaptedModels, "has_chat", False)
    assert main(["ask", str(adapted), "Why?", "--style", "chat"]) == 1
    assert "needs a chat template" in capsys.readouterr().err


def test_ask_without_question_or_terminal_is_a_usage_error(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ask", str(adapted)])
    assert caught.value.code == 2
    assert "no question" in capsys.readouterr().err


def answer(text: str) -> TimedAnswer:
    return TimedAnswer(text=text, num_tokens=3, finish_reason="length", seconds=1.25)


def test_answers_are_shown_with_control_characters_escaped() -> None:
    evil = "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold] \u202eabc\r\nend"
    for console in (
        Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None),
        Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None),
        Console(file=io.StringIO(), force_terminal=False),
    ):
        print_beside(console, f"is it {evil}", {"adapted": answer(evil), "unadapted": answer("")})
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert not set("\x07\u202e\r") & set(shown)
        assert "\x1b]" not in shown
        assert "\x1b[31m" not in shown
        for visible in ("\\x1b[31mred", "[bold]x[/bold]", "\\u202eabc", "(nothing)", "3 tokens, cut, 1.2 s"):
            assert visible in shown


def test_answers_are_side_by_side_on_a_wide_terminal() -> None:
    def lines(width: int) -> Sequence[str]:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        print_beside(console, "Why?", {"adapted": answer("one"), "unadapted": answer("two")})
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    assert any("one" in line and "two" in line for line in lines(100))
    assert not any("one" in line and "two" in line for line in lines(50))


def test_stop_on_interrupt_raises_at_the_second() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_session_stops_one_answer_and_continues(
    adapted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the first answer is written: the second is written whole, and so is what is asked next."""
    models = AdaptedModels.load([adapter_source(adapted)])
    spec = SamplingSpec(temperature=1.0, max_new_tokens=20)
    session = Session(models, "minerals", Asking(), spec, 1, ("adapted", "unadapted"), "")
    typed = iter(["Why?", "/topic Stones", "/nonsense", "", "Why?"])
    decode, interrupts = models.language_model.decode, [3]

    def interrupting(ids: list[int]) -> str:
        if interrupts == [len(ids)]:
            interrupts.clear()
            signal.raise_signal(signal.SIGINT)
        return decode(ids)

    monkeypatch.setattr(models.language_model, "decode", interrupting)

    def type_next(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", type_next)
    assert session.run() == 0
    out = capsys.readouterr().out
    assert out.count("[stopped]") == 1
    assert out.count("adapted: ") == 4
    assert out.count(" tokens") == 3
    assert "topic: Stones" in out
    assert "no command '/nonsense'" in out


class Terminal:
    """`seal ask DIR` on a terminal of its own."""

    def __init__(self, *args: str) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "seal_lightning", "ask", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, there: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 50
        while not there(self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    assert there(self.seen), self.seen
                    return

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.mark.slow
def test_session_on_a_terminal(adapted: Path) -> None:
    terminal = Terminal(str(adapted))
    try:
        terminal.wait_for(lambda seen: "? " in seen and "minerals, asked in the style base" in seen)
        terminal.type(f"{QUESTION}\n")
        terminal.wait_for(lambda seen: seen.count(" tokens") == 2)
        assert "unadapted: " in terminal.seen
        terminal.wait_for(lambda seen: seen.endswith("? "))
        assert "\x1b" not in terminal.seen.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
