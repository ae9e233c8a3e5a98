"""``seal ask DIR`` on a terminal: questions are typed, answers appear as they are written.

Each question stands alone, in a chat too, as in an exam: an earlier answer would be a context that the adapted and the
unadapted model do not share. For conversations there is ``seal serve``.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console
from rich.text import Text

from seal_lightning.adapt.ask.adapted_models import AdaptedModels, Side
from seal_lightning.adapt.ask.questions import asked_question
from seal_lightning.adapt.ask.streaming import AnswerStopped
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.commands.shown_answers import EMPTY, measured
from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import DataError, shown
from seal_lightning.reporting.text import escape_invisible

HELP = "/topic TITLE sets the title before questions, /topic alone drops it; /quit or Ctrl-D leaves; Ctrl-C stops an answer"


@dataclass
class Session:
    """A dialogue that shows both answers to each question."""

    models: AdaptedModels
    name: str
    asking: Asking
    sampling: SamplingSpec
    seed: int
    sides: Sequence[Side]
    topic: str

    def __post_init__(self) -> None:
        self._console = Console(highlight=False)

    def run(self) -> int:
        """Run until /quit or the end of the input; return exit code 0."""
        with contextlib.suppress(ImportError):  # missing on some systems; it adds line editing and history
            import readline  # noqa: F401
        self._say(f"{self.name}, asked in the style {self.asking.style}; every question alone. {HELP}")
        while True:
            try:
                line = input("? ").strip()
                if line == "/quit":
                    return 0
                if line.startswith("/"):
                    self._run_command(line)
                elif line:
                    self._answer(line)
            except EOFError:
                self._say("")
                return 0
            except KeyboardInterrupt:  # while a line is typed, or the second one during an answer
                self._say("")

    def _run_command(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/topic":
            self.topic = rest.strip()
            self._say(f"topic: {self.topic}" if self.topic else "no topic")
        else:
            self._say(HELP if command == "/help" else f"no command {shown(command)}; {HELP}")

    def _answer(self, line: str) -> None:
        try:
            question = asked_question(line, self.asking, self.topic)
            for side in self.sides:
                self._console.print(Text(f"{side}: ", style="cyan"), end="")
                shown_text = ""

                def emit(piece: str) -> None:
                    nonlocal shown_text  # without the blanks before the first word and behind the last
                    before, shown_text = shown_text.rstrip(), (shown_text + piece).lstrip()
                    sys.stdout.write(escape_invisible(shown_text.rstrip()[len(before) :]))
                    sys.stdout.flush()

                try:
                    with stop_on_interrupt() as interrupted:
                        answer = self.models.answer(
                            question, side, self.sampling, seed=self.seed, emit=emit, is_cancelled=interrupted
                        )
                    self._say(f"{'' if answer.text else EMPTY}  [{measured(answer)}]", style="dim")
                except AnswerStopped:
                    self._say("  [stopped]", style="dim")
        except DataError as error:
            self._say(f"error: {error}")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(escape_invisible(text), style=style), soft_wrap=True)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a check for a first Ctrl-C, which is only remembered inside the block; a second one raises as ever.

    So an answer ends between two tokens, and no adapter stays in the model.
    """
    seen = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)
