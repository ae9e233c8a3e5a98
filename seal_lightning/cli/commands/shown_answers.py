"""Answers on a terminal, the adapted one beside the unadapted one, with control characters escaped."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seal_lightning.adapt.ask.adapted_models import Compared, TimedAnswer
from seal_lightning.reporting.text import escape_invisible

NARROW = 80
"""Columns; on a narrower terminal, answers are printed below each other."""
EMPTY = "(nothing)"


def print_beside(console: Console, question: str, compared: Compared, *, is_first: bool = True) -> None:
    """Print a question and its answers: two columns on a wide terminal, else below each other; plain text in a pipe."""
    if not is_first:
        console.print()
    plain = not console.is_terminal
    console.print(Text(escape_invisible(question), style="" if plain else "bold"), soft_wrap=plain)
    if plain or console.width < NARROW or len(compared) == 1:
        for side, answer in compared.items():
            line = Text(f"{side}: ", style="" if plain else "cyan").append(shown_answer(answer), style="default")
            console.print(line.append(f"  [{measured(answer)}]", style="dim"), soft_wrap=plain)
        return
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for side in compared:
        table.add_column(side, ratio=1, overflow="fold")
    table.add_row(*[Text(shown_answer(answer)) for answer in compared.values()])
    table.add_row(*[Text(measured(answer), style="dim") for answer in compared.values()])
    console.print(table)


def shown_answer(answer: TimedAnswer) -> str:
    """Return an answer's text with control characters escaped."""
    return escape_invisible(answer.text) or EMPTY


def measured(answer: TimedAnswer) -> str:
    """Return tokens and seconds, and whether the answer was cut."""
    cut = ", cut" if answer.finish_reason == "length" else ""
    return f"{answer.num_tokens} tokens{cut}, {answer.seconds:.1f} s"
