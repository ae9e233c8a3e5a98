"""The paper's results (arXiv 2506.10943, v1 of June 2025 and v2 of September 2025), to stand beside a run's own.

Percentages, with another model, other data and another judge than a run here: a scale to read by, not a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal_lightning.core.evaluation_records import SINGLE_PASSAGE
from seal_lightning.reporting.document import Block, ReportSection, Table, TextBlock
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.settings import class_path

_JUDGED = (
    "Qwen2.5-7B base (3B where it says so) on SQuAD passages; answers judged by GPT-4.1 against the gold answer, questions "
    "asked without the passage. "
)
_WARNING = (
    "Published figures (arXiv 2506.10943) of ANOTHER MODEL, another judge (GPT-4.1) and other data than this run's: a scale "
    "to read by. They are not a baseline of this run, and a difference from them says nothing about its code."
)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of the paper, and the runs it is shown for."""

    domain: str
    """Package of the run's domain, ``knowledge`` or ``arc``."""
    protocol: str | None
    """None: of any protocol."""
    title: str
    cells: str
    """A line per row, the first one with the headings; ``|`` stands between cells."""
    note: str

    @property
    def table(self) -> Table:
        """The table for a report."""
        headings, *rows = (tuple(cell.strip() for cell in line.split("|")) for line in self.cells.strip().splitlines())
        return Table(title=self.title, headings=headings, rows=tuple(rows), note=self.note.strip())


PUBLISHED = (
    PublishedTable(
        domain="knowledge",
        protocol=SINGLE_PASSAGE,
        title="Paper: single passage, 200 passages with 974 questions, accuracy in %",
        cells="""
            condition | 7B | 3B
            no adaptation | 32.7 | 25.1
            passage only | 33.5 | –
            passage + own synthetic data, before RL | 39.7 | 31.9
            passage + synthetic data of GPT-4.1 | 46.3 | –
            SEAL, after round 1 | 43.7 | –
            SEAL, after round 2 | 47.0 | 37.0
            SEAL with the proxy reward (a judge rates edits, no inner loop) | 45.6 | –
            Generative Adapter (another method, Mistral-7B; from 24.4 without) | 66.8 | –
        """,
        note=_JUDGED
        + "The row of Generative Adapter is of Mistral-7B. Proxy reward: about 5 minutes of E-step against "
        "about 6 hours (v2).",
    ),
    PublishedTable(
        domain="knowledge",
        protocol=SINGLE_PASSAGE,
        title="Paper: formats of the self-edit, single passage, accuracy in %",
        cells="""
            format | before RL | after round 1 | after round 2 | GPT-4.1 as writer
            implications | 39.7 | 43.7 | 47.0 | 46.3
            implications, long | 49.3 | 52.4 | 54.4 | 54.1
            implications, very long | 45.0 | 51.5 | 52.1 | 40.9
            rewrites | 49.4 | 55.3 | 55.6 | 54.4
            self-QA | 37.3 | 42.8 | 48.7 | 39.2
            no instruction | 13.8 | 12.7 | 18.9 | 28.6
            chain of thought | 38.7 | – | – | –
        """,
        note=_JUDGED,
    ),
    PublishedTable(
        domain="knowledge",
        protocol="continued pretraining",
        title="Paper: continued pretraining, all passages' edits in one training set, accuracy in %",
        cells="""
            setting | base | passage | + own | SEAL | + GPT-4.1 | EntiGraph pairs | EntiGraph pairs and triples
            200 passages, LoRA (v1) | 32.7 | 32.2 | 41.0 | 43.8 | 39.4 | – | –
            200 passages, full finetuning (v2) | 32.7 | 36.0 | 50.6 | 58.2 | 59.4 | 46.2 | 56.0
            2,067 passages, full finetuning (v2) | 29.0 | 31.2 | 43.4 | 46.4 | 49.2 | 38.6 | 48.6
        """,
        note=_JUDGED + "Generative Adapter (another method, Mistral-7B) goes from 26.8 to 28.0 at 200 passages.",
    ),
    PublishedTable(
        domain="knowledge",
        protocol="continual self-edits",
        title="Paper: continual self-edits, 64 sequences of 8 passages, mean accuracy on the first passage in %",
        cells="""
            when | accuracy
            before any edit | 33
            after its own edit | 38
            after all eight | 19
        """,
        note=_JUDGED,
    ),
    PublishedTable(
        domain="arc",
        protocol=None,
        title="Paper: few-shot ARC, success rate on held-out tasks, in %",
        cells="""
            condition | solved
            in context | 0
            test-time training on self-edits, without RL | 20
            SEAL | 72.5
            hand-made best configuration (oracle) | 100
        """,
        note="Llama-3.2-1B-Instruct on few ARC-AGI-1 tasks (11 for training and 8 for evaluation, by the paper's text), "
        "chosen because a model of 1B can solve them; 5 self-edits per task.",
    ),
)


def published_section(runs: Sequence[StoredRun]) -> ReportSection | None:
    """Return the paper's tables for the domains and protocols of the runs; None where it has none."""
    met = {
        (class_path(run, "model.domain"), protocol)
        for run in runs
        for protocol in ([test.protocol.name for test in run.tests] or [SINGLE_PASSAGE])
    }
    fitting = [
        one.table
        for one in PUBLISHED
        if any(d.startswith(f"seal_lightning.domains.{one.domain}.") and one.protocol in (None, p) for d, p in met)
    ]
    blocks: tuple[Block, ...] = (TextBlock(text=_WARNING), *fitting)
    return ReportSection(title="What the paper reports", blocks=blocks) if fitting else None
