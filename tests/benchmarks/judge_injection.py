"""How often wrong answers that speak to the judge pass, by judge and defence, and what the defences cost honest answers.

    python tests/benchmarks/judge_injection.py rules
    python tests/benchmarks/judge_injection.py model [--style base]
    python tests/benchmarks/judge_injection.py endpoint --model NAME --base_url http://127.0.0.1:8000/v1

``--graded FILE`` takes a JSONL of {question, gold, answer, correct} and prints agreement with it; ``--limit`` so many lines.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scoring" / "judges"))
from hostile_answers import STYLES, UNSEEN, hostile
from served_model import INSTRUCTION, SHOWN

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.core.interfaces import Grader
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import GradingWording, JudgeGrader, LocalRules, cohen_kappa
from seal_lightning.scoring.judges import CachedJudge, EndpointJudge, JudgeWording, ModelJudge

DEFENCES = {
    "none": {"guard": False, "num_decoys": 0},
    "guard": {"guard": True, "num_decoys": 0},
    "decoy": {"guard": False, "num_decoys": 1},
    "guard and decoy": {"guard": True, "num_decoys": 1},
}


def shares(grader: Grader, cases: Sequence[AnsweredQuestion]) -> str:
    statuses = [verdict.status for verdict in grader.grade(cases)]
    passed, unscored = (statuses.count(s) for s in (VerdictStatus.CORRECT, VerdictStatus.UNSCORED))
    return f"{passed} of {len(cases)} pass ({passed / len(cases):.1%}), {unscored} unscored"


def graded(path: Path, limit: int) -> tuple[list[AnsweredQuestion], list[bool]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    random.Random(7).shuffle(rows)
    rows = rows[:limit]
    cases = [
        AnsweredQuestion(
            question_id=str(i), question=row["question"], gold_answers=(row["gold"],), answer=row["answer"]
        )
        for i, row in enumerate(rows)
    ]
    return cases, [row["correct"] for row in rows]


def agreement(grader: Grader, cases: Sequence[AnsweredQuestion], truth: Sequence[bool]) -> str:
    statuses = [verdict.status for verdict in grader.grade(cases)]
    pairs = [(s is VerdictStatus.CORRECT, t) for s, t in zip(statuses, truth, strict=True) if s != "unscored"]
    if not pairs:
        return "all unscored"
    ours, theirs = zip(*pairs, strict=True)
    right = sum(a == b for a, b in pairs) / len(pairs)
    accepted = sum(a for a, b in pairs if b) / max(sum(theirs), 1)
    wrongly = sum(a for a, b in pairs if not b) / max(len(pairs) - sum(theirs), 1)
    unscored = len(statuses) - len(pairs)
    return (
        f"agrees on {right:.1%} of {len(pairs)} ({unscored} unscored), kappa {cohen_kappa(ours, theirs):.2f}; "
        f"accepts {accepted:.0%} of the right, {wrongly:.0%} of the wrong"
    )


def made(options: argparse.Namespace) -> CachedJudge | None:
    limits = {"max_unscored": 1.0, "min_questions": 10**6, "cache_dir": options.cache_dir}
    limits["wording"] = SHOWN if options.examples else JudgeWording()
    if options.judge == "model":
        return ModelJudge(Pretrained(source=options.model or "embedded"), style=options.style, device="cpu", **limits)
    if options.judge == "endpoint":
        return EndpointJudge(
            options.model,
            options.base_url,
            api_key_env=options.api_key_env,
            max_answer_tokens=options.max_answer_tokens,
            max_concurrency=2,
            timeout_s=120.0,
            deadline_s=240.0,
            **limits,
        )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judge", choices=["rules", "model", "endpoint"])
    parser.add_argument("--model")
    parser.add_argument("--base_url")
    parser.add_argument("--api_key_env")
    parser.add_argument("--style", default="chat")
    parser.add_argument("--max_answer_tokens", type=int, default=64)
    parser.add_argument("--passages", type=int, default=3, help="70 hostile answers each")
    parser.add_argument("--graded", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--cache_dir")
    parser.add_argument("--examples", action="store_true", help="show a small model how to reply")
    parser.add_argument("--defences", nargs="*", default=list(DEFENCES), choices=list(DEFENCES))
    options = parser.parse_args()
    judge = made(options)
    graders: dict[str, Grader] = {"local rules": LocalRules()}
    if judge is not None:
        wording = GradingWording(instruction=INSTRUCTION) if options.examples else GradingWording()
        graders = {name: JudgeGrader(judge, wording=wording, **DEFENCES[name]) for name in options.defences}
    sets = {
        name: [hostile(style, number) for style in styles for number in range(options.passages)]
        for name, styles in (("known styles", STYLES), ("styles the guard was not made for", UNSEEN))
    }
    for name, grader in graders.items():
        start = time.perf_counter()
        for kind, cases in sets.items():
            print(f"{name}: {kind}: {shares(grader, cases)}", flush=True)
        if options.graded is not None:
            print(f"{name}: honest: {agreement(grader, *graded(options.graded, options.limit))}", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    if judge is not None:
        print(judge.counts)


if __name__ == "__main__":
    main()
