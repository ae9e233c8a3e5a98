"""What reading documents takes, and how full passages are: ``python tests/benchmarks/documents.py [PATH …] [--chars N]``.

Paths are read with the embedded model's tokenizer and with the estimate beside it; then a made-up text of N characters is
read as text, Markdown and HTML.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from seal_lightning.domains.knowledge import Documents
from seal_lightning.domains.knowledge.documents.packing import CountTokens, estimated_tokens
from seal_lightning.models.pretrained import embedded_folder


def tokenizer() -> CountTokens:
    loaded = AutoTokenizer.from_pretrained(embedded_folder())
    return lambda text: len(loaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def measure(paths: list[str]) -> None:
    """How far the estimate is from the tokenizer, and how much of the budget passages use."""
    count, documents = tokenizer(), Documents(paths=paths)
    ratios = sorted(count(p.context) / estimated_tokens(p.context) for p in documents.load())
    middle, high = ratios[len(ratios) // 2], ratios[int(0.95 * len(ratios))]
    print(f"tokens by estimated tokens: median {middle:.2f}, 95 % under {high:.2f}, most {ratios[-1]:.2f}")
    documents.count_tokens = count
    start = time.perf_counter()
    passages = documents.load()
    seconds = time.perf_counter() - start
    sizes = [count(p.context) for p in passages]
    small = sum(size < documents.passage_tokens / 4 for size in sizes) / len(sizes)
    print(
        f"{len(documents.documents)} documents, {len(passages)} passages in {seconds:.1f} s with the tokenizer: of "
        f"{documents.passage_tokens} tokens {sum(sizes) / len(sizes):.0f} on average, at most {max(sizes)}; "
        f"{small:.1%} under a quarter"
    )


def made_up(num_chars: int) -> list[str]:
    """Sentences of 15 words, all different enough."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnop", k=source.randint(2, 9))) for _ in range(5000)]
    sentences, size = [], 0
    while size < num_chars:
        sentences.append(" ".join(source.choices(words, k=15)).capitalize() + ". ")
        size += len(sentences[-1])
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", default=["README.md", "docs"])
    parser.add_argument("--chars", type=int, default=4_900_000)
    options = parser.parse_args()
    measure(options.paths)
    sentences = made_up(options.chars)
    paragraphs = ["".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5)]
    texts = {
        "txt": "".join(sentences),
        "md": "\n\n".join(paragraphs),
        "html": "<p>" + "</p><p>".join(paragraphs) + "</p>",
    }
    for ending, text in texts.items():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, f"made_up.{ending}").write_text(text)
            start = time.perf_counter()
            passages = Documents(paths=[folder]).load()
            seconds = time.perf_counter() - start
            print(f"{options.chars} characters as .{ending}: {len(passages)} passages in {seconds:.1f} s")


if __name__ == "__main__":
    main()
