"""How fast adapters are trained and examined: ours against PEFT one by one, in one run, interleaved, medians.

    python tests/benchmarks/inner_loop.py --data ../shared/data/squad_seal_train.json
    python tests/benchmarks/inner_loop.py --random-weights Qwen/Qwen2.5-7B-shape --device cuda --dtype bfloat16 \
        --data squad_seal_train.json --passages 20 --edits 5 --epochs 10 --compared 2

Contenders: (a) Hugging Face's trainer with PEFT, every sequence padded to 2048 as the SEAL release does, extrapolated
from one step; (b) the same unpadded; (c) PEFT in a plain torch loop, unpadded; (d) ours. (a) to (c) train ``--compared``
adapters a repeat, (d) all of them. The whole E-step samples edits one by one with ``generate`` and trains as (c), against
ours; both train on the same real edits, and sampling is counted at the real edits' number of tokens, whatever was drawn.
"Before adaptation" is asked once a task by both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))

from one_by_one import RELEASE_LENGTH, OneByOne
from workload import SHAPES, Candidate, load_candidates, load_model

from seal_lightning.core import Adapted, Adapter, GenerationRequest, SamplingSpec
from seal_lightning.domains.knowledge import KnowledgeDomain
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel

CONTENDERS = {
    "a": f"HF Trainer + PEFT, padded to {RELEASE_LENGTH} (extrapolated from one step)",
    "b": "HF Trainer + PEFT, unpadded",
    "c": "PEFT + plain torch, unpadded",
    "d": "ours",
}


class Benchmark:
    """One machine, one model, one set of real edits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.candidates = load_candidates(options.data, options.passages, options.edits, options.epochs)
        self.compared = self.candidates[:: max(1, len(self.candidates) // options.compared)][: options.compared]
        self.domain = KnowledgeDomain(max_answer_tokens=32)
        self.seconds: dict[str, list[float]] = {}
        self._ours: LanguageModel | None = None
        self._theirs: OneByOne | None = None
        self.adapters: list[Adapter] = []

    @property
    def ours(self) -> LanguageModel:
        """The model as this package loads it."""
        if self._ours is None:
            self._ours = load_model(self.options.random_weights, self.options.dtype, self.device)
            self.loop = BatchedInnerLoop(self.options.max_adapters, self.options.max_tokens)
            self.loop.bind(self._ours)
            self.engine = TransformersEngine(max_batch_size=self.options.batch_size)
            self.engine.bind(self._ours)
        return self._ours

    @property
    def theirs(self) -> OneByOne:
        """A copy of the model in PEFT."""
        if self._theirs is None:
            model = load_model(self.options.random_weights, self.options.dtype, self.device)
            for module in model.model.modules():  # as transformers made them
                if isinstance(module, torch.nn.Linear):
                    module.__class__ = torch.nn.Linear
            plan = self.candidates[0].plan
            self._theirs = OneByOne(model, plan.adapter.rank, plan.adapter.alpha)
        return self._theirs

    @contextmanager
    def timed(self, name: str, per: float) -> Iterator[None]:
        """Adds the block's seconds, divided by ``per``."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.setdefault(name, []).append((time.perf_counter() - start) / per)

    def tokens(self, candidates: list[Candidate]) -> int:
        """Of one epoch."""
        return sum(len(tokenize(s, self.ours).token_ids) for c in candidates for s in c.plan.sequences)

    # --- training: seconds an adapter, all adapters weighed by their tokens

    def train(self, contender: str) -> None:
        """One measurement."""
        share = self.tokens(self.compared) / self.tokens(self.candidates) * len(self.candidates)
        if contender == "a":
            plan = self.compared[0].plan
            steps = sum(c.plan.num_steps for c in self.candidates) / len(self.candidates)
            _ = self.theirs
            with self.timed("train a", 1 / steps):
                self.theirs.by_trainer(plan, RELEASE_LENGTH, max_steps=1)
        elif contender == "d":
            _ = self.ours
            with self.timed("train d", len(self.candidates)):
                results = self.loop.adapt([c.plan for c in self.candidates], list(range(len(self.candidates))))
            self.adapters = [r.adapter for r in results if isinstance(r, Adapted)]
        else:
            _ = self.theirs
            with self.timed(f"train {contender}", share):
                for candidate in self.compared:
                    if contender == "b":
                        self.theirs.by_trainer(candidate.plan, None)
                    else:
                        self.theirs.by_torch(candidate.plan)

    # --- answering: seconds an adapter

    def answer(self, contender: str) -> None:
        """The questions of every adapter's passage, greedily, at most 32 new tokens."""
        if contender == "d":
            requests = [
                GenerationRequest(
                    prompt=p.prompt,
                    sampling=SamplingSpec(temperature=0.0, max_new_tokens=p.max_new_tokens, stop=p.stop),
                    adapter=adapter,
                )
                for candidate, adapter in zip(self.candidates, self.adapters, strict=True)
                for p in self.domain.exam(candidate.passage)
            ]
            with self.timed("answer d", len(self.candidates)):
                self.engine.generate(requests)
            return
        with self.timed("answer c", len(self.compared)):
            for candidate in self.compared:
                self.theirs.write([str(p.prompt) for p in self.domain.exam(candidate.passage)], 32, False, True)

    # --- sampling: seconds an edit of the real edits' mean length

    def sample(self, contender: str) -> None:
        """Edits of up to ``--sampled-tokens`` tokens."""
        wanted = statistics.mean(len(self.ours.encode_text(c.edit.text)) for c in self.candidates)
        count = self.options.sampled_tokens
        start = time.perf_counter()
        if contender == "d":
            sampling = SamplingSpec(temperature=1.0, top_p=0.95, max_new_tokens=count)
            requests = [
                GenerationRequest(prompt=self.domain.edit_prompt(c.passage), sampling=sampling, seed=i)
                for i, c in enumerate(self.candidates)
            ]
            written = sum(len(c.token_ids) for c in self.engine.generate(requests))
        else:
            written = sum(
                self.theirs.write([str(self.domain.edit_prompt(c.passage))], count, True, False) for c in self.compared
            )
        rate = written / (time.perf_counter() - start)
        self.seconds.setdefault(f"sample {contender}", []).append(wanted / rate)
        self.seconds.setdefault(f"tokens/s sampled {contender}", []).append(rate)

    def before(self, contender: str) -> None:
        """The unadapted model's answers, once a task; seconds an edit."""
        passages = list({c.passage.task_id: c.passage for c in self.candidates}.values())
        if contender == "d":
            with self.timed("before d", len(self.candidates)):
                self.engine.generate(
                    [
                        GenerationRequest(prompt=p.prompt, sampling=SamplingSpec(temperature=0.0, max_new_tokens=32))
                        for passage in passages
                        for p in self.domain.exam(passage)
                    ]
                )
            return
        with self.timed("before c", len(self.candidates)):
            for passage in passages:
                self.theirs.write([str(p.prompt) for p in self.domain.exam(passage)], 32, False, False)

    def run(self) -> None:
        """Everything ``--repeats`` times, contenders taking turns."""
        for repeat in range(self.options.repeats):
            for contender in self.options.contenders:
                self.train(contender)
            for part in (self.answer, self.sample, self.before):
                for contender in set(self.options.contenders) & {"c", "d"}:
                    part(contender)
            print(f"repeat {repeat + 1} of {self.options.repeats}", file=sys.stderr)

    def training_flops(self) -> float:
        """FLOP an adapter: 4 a weight and token (forward, and the gradient of the input), 6 a LoRA weight."""
        model = self.ours.model
        embeddings = model.get_input_embeddings().weight.numel()
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        weights = sum(p.numel() for p in model.parameters()) - (0 if tied else embeddings)
        lora = sum(t.numel() for t in self.adapters[0].tensors())  # type: ignore[attr-defined]
        tokens = self.options.epochs * self.tokens(self.candidates) / len(self.candidates)
        return float(tokens * (4 * weights + 6 * lora))

    def gemm_rate(self) -> float:
        """FLOP a second of large matrix products in the model's precision, the median of ten."""
        size = 2048 if self.device.type == "cpu" else 8192
        a = torch.randn(size, size, device=self.device).to(self.ours.model.dtype)
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            _ = a @ a
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return float(2 * size**3 / statistics.median(seconds))


def peak_memory(options: argparse.Namespace, contender: str) -> float:
    """GiB at the peak of a process of its own that trains as this contender does."""
    command = [sys.executable, __file__, *options.arguments, "--memory-of", contender]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.strip().splitlines()[-1])


def measure_memory(options: argparse.Namespace) -> float:
    """What :func:`peak_memory` runs."""
    benchmark = Benchmark(options)
    if options.memory_of != "d":
        benchmark._ours = benchmark.theirs.language_model  # the tokenizer: a second model would be counted
    benchmark.train(options.memory_of)
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 2**20


def report(benchmark: Benchmark, memory: dict[str, float]) -> dict[str, object]:
    """Medians, ratios and the share of the machine's rate."""
    median = {name: statistics.median(values) for name, values in benchmark.seconds.items()}
    for contender in ("c", "d"):
        parts = [
            median[f"{part} {contender}"]
            for part in ("sample", "train", "answer", "before")
            if f"{part} {contender}" in median
        ]
        if len(parts) == 4:
            median[f"E-step {contender}"] = sum(parts)
    rate = benchmark.gemm_rate()
    return {
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "adapters": len(benchmark.candidates),
        "epochs": benchmark.options.epochs,
        "tokens_an_epoch": benchmark.tokens(benchmark.candidates) / len(benchmark.candidates),
        "median": median,
        "all": benchmark.seconds,
        "peak_gib": memory,
        "gemm_gflops": rate / 1e9,
        "training_share_of_gemm": benchmark.training_flops() / median["train d"] / rate,
    }


def markdown(result: dict[str, object]) -> str:
    """The table of a report."""
    median: dict[str, float] = result["median"]  # type: ignore[assignment]
    memory: dict[str, float] = result["peak_gib"]  # type: ignore[assignment]
    lines = [
        "| part | contender | s an adapter | adapters a minute | ours is faster by | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for part in ("train", "answer", "sample", "E-step"):
        for contender, name in CONTENDERS.items():
            if f"{part} {contender}" not in median:
                continue
            seconds = median[f"{part} {contender}"]
            if part in ("sample", "E-step") and contender == "c":
                name = "one by one" if part == "sample" else "one by one, trained as (c)"
            gain = f"{seconds / median[f'{part} d']:.2f}" if f"{part} d" in median else "–"
            peak = f"{memory[contender]:.2f}" if part == "train" and contender in memory else ""
            lines.append(f"| {part} | ({contender}) {name} | {seconds:.2f} | {60 / seconds:.1f} | {gain} | {peak} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="SQuAD passages with self-edits, as the release has them"
    )
    parser.add_argument("--passages", type=int, default=4)
    parser.add_argument("--edits", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--compared", type=int, default=4, help="adapters that (b) and (c) train a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=["a", "b", "c", "d"], choices=list(CONTENDERS))
    parser.add_argument("--sampled-tokens", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32, help="rows we generate at once")
    parser.add_argument("--max-adapters", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=None, help="tokens of one of our training passes")
    parser.add_argument("--random-weights", choices=list(SHAPES), default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, default=None, help="write all measurements here")
    parser.add_argument("--memory-of", choices=list(CONTENDERS), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.arguments = [a for a in sys.argv[1:] if a != "--memory-of"]
    return options


def main() -> None:
    """Measure and print."""
    options = parsed()
    transformers.logging.set_verbosity_error()
    if options.memory_of is not None:
        print(measure_memory(options))
        return
    benchmark = Benchmark(options)
    benchmark.run()
    memory = {contender: peak_memory(options, contender) for contender in options.contenders}
    result = report(benchmark, memory)
    print(markdown(result))
    print(
        f"\nTraining reaches {result['training_share_of_gemm']:.0%} of the {result['gemm_gflops']:.0f} GFLOP/s that large "
        f"matrix products reach here. {result['versions']}, {result['threads']} threads."
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
