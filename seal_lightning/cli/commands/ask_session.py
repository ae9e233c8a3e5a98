"""``seal ask DIR`` on a terminal: questions are typed, answers appear as they are written.

Each question stands alone, in a chat too, as in an exam: an earlier answer would be a context that the adapted and the
unadapted model do not share. Conversations are what ``seal serve`` is for.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.text import Text

from seal_lightning.adapt.ask.comparing import Side, timed_answer
from seal_lightning.adapt.ask.models import AdaptedModels
from seal_lightning.adapt.ask.questions import asked_question
from seal_lightning.adapt.ask.writing import Stopped
from seal_lightning.adapt.record import Asking
from seal_lightning.cli.commands.shown_answers import EMPTY, measured
from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import DataError, shown
from seal_lightning.reporting.text import escape_invisible

HELP = "/topic TITLE sets the title before questions, /topic alone drops it; /quit or Ctrl-D leaves; Ctrl-C stops an answer"


class Session:
    """Reads questions and shows both answers until it is left."""

    def __init__(
        self,
        models: AdaptedModels,
        name: str,
        asking: Asking,
        sampling: SamplingSpec,
        seed: int,
        sides: Sequence[Side],
        topic: str,
    ) -> None:
        self.models = models
        self.name = name
        self.asking = asking
        self.sampling = sampling
        self.seed = seed
        self.sides = sides
        self.topic = topic
        self._console = Console(highlight=False)

    def run(self) -> int:
        """Exit code 0; it is left by /quit or the end of the input."""
        with contextlib.suppress(ImportError):  # not everywhere; with it, lines are edited and come back
            import readline  # noqa: F401
        self._say(f"{self.name}, asked in the style {self.asking.style}; every question alone. {HELP}")
        while True:
            try:
                line = input("? ").strip()
                if line == "/quit":
                    return 0
                if line.startswith("/"):
                    self._obey(line)
                elif line:
                    self._answer(line)
            except EOFError:
                self._say("")
                return 0
            except KeyboardInterrupt:  # of a line that is typed, or a second one while an answer is written
                self._say("")

    def _obey(self, line: str) -> None:
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
                teller = _Teller()
                try:
                    with stop_on_interrupt() as interrupted:
                        answer = timed_answer(
                            self.models, question, side, self.sampling, self.seed, teller.tell, interrupted
                        )
                    self._say(f"{'' if answer.text else EMPTY}  [{measured(answer)}]", style="dim")
                except Stopped:
                    self._say("  [stopped]", style="dim")
        except DataError as error:
            self._say(f"error: {error}")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(escape_invisible(text), style=style), soft_wrap=True)


class _Teller:
    """Shows the pieces of an answer without the blanks before its first word and behind its last."""

    def __init__(self) -> None:
        self._blanks: str | None = None
        """Seen behind the last word, not shown yet; None before the first word."""

    def tell(self, piece: str) -> None:
        whole = piece.lstrip() if self._blanks is None else self._blanks + piece
        words = whole.rstrip()
        if words:
            sys.stdout.write(escape_invisible(words))
            sys.stdout.flush()
            self._blanks = whole[len(words) :]
        elif self._blanks is not None:
            self._blanks = whole


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, a first Ctrl-C is only remembered, for who asks whether there was one; a second one interrupts as ever.

    So an answer ends between two tokens, and nothing of an adapter stays in the model.
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
