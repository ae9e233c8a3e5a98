"""``seal fit | validate | test | predict`` through LightningCLI, and commands beside it that need no trainer."""

from __future__ import annotations

import atexit
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from seal_lightning.core.errors import RankLost, SealError, StopRequested

TRAINER_SUBCOMMANDS = ("fit", "validate", "test", "predict")

USAGE = """usage: seal COMMAND …

  seal fit -c CONFIG [-c CONFIG …]     train: rounds of E-step and M-step
  seal fit --resume RUN                continue an interrupted run; auto: the one in --run_dir, or start it
  seal test --run RUN                  compare adaptation on self-edits with its controls on held-out tasks
  seal validate --run RUN              reward of one self-edit per validation task
  seal predict --run RUN               write self-edits for tasks
  seal replay RUN ATTEMPT_ID           recompute one stored attempt
  seal search RUN                      try the configurations an edit could choose, on the CPU
  seal sweep RUN --grid rank=32,64 …   compare settings of the inner loop on given edits (or -c CONFIG … --out DIR)
  seal report RUN [RUN …]              write a page of a run's results: tables, curves, edits, costs
  seal compare A B                     test whether two runs differ on the same questions
  seal attempts RUN                    list, filter and show stored attempts; repair a damaged journal
  seal adapt PATH … --out DIR          make documents part of a model: self-edits, one adapter, exams before and after
  seal ask DIR QUESTION                compare the adapted and base models' answers; without a question: a session
  seal serve DIR [DIR …]               serve adapted models behind an OpenAI-compatible endpoint on this machine
  seal adapters DIR …                  list, compare, merge, export, push, remove adapted models
  seal lm_eval DIR                     measure side effects on other tasks with lm-evaluation-harness

RUN is a run directory, DIR a folder written by `seal adapt`. `seal fit --help`, `seal test --help` … list every setting."""


_WITHOUT_TORCH = ("adapters", "attempts", "compare", "lm_eval", "report")
_COMMANDS = (*_WITHOUT_TORCH, "adapt", "ask", "replay", "search", "serve", "sweep")
"""Each is a module of :mod:`seal_lightning.cli.commands` with a ``main``, imported on first use."""

_rank_lost: RankLost | None = None
"""Kept alive, with everything its traceback refers to, until the process exits."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors of this package are printed without a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(USAGE + "\n")
        return 0 if args else 2
    try:
        return _run(args[0], args[1:])
    except SealError as error:
        global _rank_lost
        _rank_lost = error if isinstance(error, RankLost) else None
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        kind = "" if isinstance(error, StopRequested) else "error: "
        sys.stderr.write(f"seal {args[0]}: {kind}{error}{notes}\n")
        return error.exit_code
    except OSError as error:
        again = "`seal fit --resume RUN`" if args[0] == "fit" else "the same command"
        sys.stderr.write(f"seal {args[0]}: error: {error}. What was stored is kept; go on with {again}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"seal {args[0]}: interrupted. What was stored is kept\n")
        return 130
    except ArgumentError as error:
        sys.stderr.write(f"seal {args[0]}: error: {error}\nAll settings: seal {args[0]} --help\n")
        return 2


def _run(command: str, args: list[str]) -> int:
    if command not in (*TRAINER_SUBCOMMANDS, *_COMMANDS):
        sys.stderr.write(f"seal: error: no command {command!r}\n{USAGE}\n")
        return 2
    if command in _WITHOUT_TORCH:  # reads files only: it starts at once
        return _main_of(command)(args)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost rank is told once, without torch's frames
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()
    if command in _COMMANDS:
        return _main_of(command)(args)
    from seal_lightning.cli.lightning_cli import run

    run(command, args)
    return 0


def _main_of(command: str) -> Callable[[Sequence[str]], int]:
    main_of: Callable[[Sequence[str]], int] = import_module(f"seal_lightning.cli.commands.{command}").main
    return main_of


def entry_point() -> Any:
    """The console script."""
    code = main()
    if _rank_lost is not None:
        # What is left of a process group waits for the lost rank when it is taken apart, so it is not.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
