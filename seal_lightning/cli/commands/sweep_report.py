"""The report of a sweep: the table, the JSON, and the best setting as a configuration."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.cli.commands.loading import load_settings, merged_settings
from seal_lightning.core import SelfEdit, Task
from seal_lightning.core.errors import SealError, shown
from seal_lightning.core.estimates import estimate, shown_estimate
from seal_lightning.evaluation.grid import (
    GridRow,
    GridSetting,
    cheapest_within_noise,
    is_within_noise,
    paired_estimate,
    written,
)
from seal_lightning.reporting.document import Table, print_line, show_table, without_empty_columns
from seal_lightning.storage.run_dir import RunDir

_MAX_ROWS = 50
_FEW_TASKS = 5
_MAX_PLANS = 8
"""Edits on whose plans a configuration is tried out."""
_NOISE = {True: "inside", False: "outside", None: "–"}


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """The settings of a sweep, best first, with what they are compared with."""

    options: argparse.Namespace
    rows: Sequence[GridRow[GridSetting]]
    unadapted: Mapping[str, float]
    """Each task's score without adaptation."""
    skipped: Sequence[tuple[str, str]]
    """Task id and reason, where nothing can be trained under any setting."""
    round_index: int
    edits: Sequence[tuple[Task, SelfEdit]]
    """The tasks and edits of the sweep."""

    def publish(self, home: RunDir, files: Sequence[str | Path]) -> None:
        """Print the table and conclusions, and write ``results/sweep.json`` and ``results/sweep_best.yaml``."""
        path = home.write_result("sweep", self._content())
        show_table(self._table())
        for line in self._conclusions():
            print_line(line)
        if self.rows[0].score is not None:
            for line in self._write_best(home, files):
                print_line(line)
        print_line(f"Every setting, with its scores by task: {path}")

    def _content(self) -> dict[str, Any]:
        names = ("grid", "tasks", "edits", "num_edits", "num_seeds", "score", "policy")
        rows = []
        for row in self.rows:
            content = asdict(row)
            del content["point"]
            rows.append(content | {"setting": row.point.values, "name": row.point.name})
        return {
            **{name: getattr(self.options, name) for name in names},
            "round": self.round_index,
            "best": self.rows[0].point.name,
            "cheapest_within_noise": cheapest_within_noise(self.rows).point.name,
            "unadapted_by_task": dict(self.unadapted),
            "left_out": [{"task_id": task_id, "reason": reason} for task_id, reason in self.skipped],
            "settings": rows,
        }

    def _table(self) -> Table:
        fields = list(self.rows[0].point.values)
        against = paired_estimate(self.unadapted, self.rows[0].by_task)
        values = list(self.unadapted.values())
        footer = ("no adaptation", *[""] * (len(fields) - 1), str(len(values)), "", shown_estimate(estimate(values)))
        footer += (shown_estimate(against, signed=True), _NOISE[is_within_noise(against)], *[""] * 4)
        scores = ("tasks", "edits", self.options.score, "vs best", "noise", "failed", "tokens", "seconds", "unscored")
        cells = [*map(_cells, self.rows[:_MAX_ROWS]), footer]
        headings, (*rows, last) = without_empty_columns((*fields, *scores), cells)
        title = f"{self.options.score} after adaptation: mean ± standard error over tasks"
        return Table(title=title, headings=headings, rows=tuple(rows), footer=(last,), text_columns=())

    def _conclusions(self) -> Iterator[str]:
        """Yield what the table shows, and what it does not."""
        best, others = self.rows[0], self.rows[1:]
        if len(self.rows) > _MAX_ROWS:
            yield f"… and {len(self.rows) - _MAX_ROWS} more settings, in the JSON"
        yield (
            "vs best: paired by task · noise: whether 0 is in the difference's 95 % interval (Student's t) · failed: "
            "diverged, counted with the score without adaptation · tokens, seconds: of training, per candidate"
        )
        if self.skipped:
            task_id, reason = self.skipped[0]
            yield f"{len(self.skipped)} edits skipped under every setting, first of {shown(task_id)}: {shown(reason)}"
        if best.score is None:
            yield "Nothing could be scored, so no setting is the best."
            return
        yield f"Best: {best.point.name}"
        if best.score.n < 2:
            yield "One task gives no standard error, so settings cannot be told apart. Take more tasks."
            return
        if best.score.n < _FEW_TASKS:
            yield f"Of {best.score.n} tasks the standard errors are rough themselves: take more to choose by."
        alike = [row for row in others if row.within_noise]
        if alike:
            cheapest = cheapest_within_noise(self.rows)
            tokens = f"{cheapest.num_tokens or 0:.0f} tokens per candidate, the best takes {best.num_tokens or 0:.0f}"
            named = "the best itself" if cheapest is best else f"{cheapest.point.name} ({tokens})"
            yield (
                f"{len(alike)} of the {len(others)} other settings are inside the noise: over {best.score.n} tasks this "
                f"sweep does not distinguish them from the best. Cheapest of these: {named}"
            )
        elif others:
            yield "All other settings are worse than the best by more than the noise; the best was chosen by this score."
        unadapted = estimate(list(self.unadapted.values()))
        below = unadapted is not None and best.score.mean <= unadapted.mean
        if below or is_within_noise(paired_estimate(self.unadapted, best.by_task)):
            yield "The best is inside the noise of no adaptation, or below it: no setting is shown to help."
        if self.options.tasks == "test":
            yield "These are the test tasks: a setting chosen on them makes a later `seal test` look too good."

    def _write_best(self, home: RunDir, files: Sequence[str | Path]) -> Iterator[str]:
        """Write ``sweep_best.yaml`` with what a configuration can set of the best setting; yields messages."""
        kept, why_not = configurable(
            self.rows[0].point, files, self.edits, without_edit=self.options.edits == "passage"
        )
        if why_not:
            yield f"A configuration of this domain cannot set {why_not}"
        if kept.values:
            text = f"# {self.rows[0].point.name}: the best of {len(self.rows)} settings by {self.options.score}\n"
            path = home.write_text_result("sweep_best", "yaml", text + yaml.safe_dump(_configuration(kept)))
            named = " ".join(f"-c {file}" for file in (*files, path))
            yield f"The best as a configuration: seal fit {named}{' --run_dir NEW' if self.options.run else ''}"


def _configuration(setting: GridSetting) -> dict[str, Any]:
    """Return a setting as a configuration; both of the package's domains have these arguments."""
    parts = {"adapter": setting.adapter, "optimizer": setting.optimizer}
    plain = {
        part: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        for part, values in parts.items()
        if values
    }
    return {"model": {"domain": {"init_args": plain}}}


def configurable(
    setting: GridSetting, files: Sequence[str | Path], edits: Sequence[tuple[Task, SelfEdit]], *, without_edit: bool
) -> tuple[GridSetting, str | None]:
    """Return what a configuration on top of the files can set of a setting, and why not the rest.

    Tried out on the plans of some edits: where edits set the learning rate themselves (ARC), a configuration does not.
    """
    try:
        text = yaml.safe_dump(_configuration(setting), default_flow_style=True, width=math.inf)
        domain = load_settings(merged_settings([*files, text]), "the configuration would be invalid")[0].domain
        plans = [
            domain.plan_without_edit(task) if without_edit else domain.plan(task, edit)
            for task, edit in edits[:_MAX_PLANS]
        ]
    except SealError as error:
        return GridSetting(), f"{setting.name}: {error}"
    kept = GridSetting(
        adapter={n: v for n, v in setting.adapter.items() if all(getattr(p.adapter, n) == v for p in plans)},
        optimizer={n: v for n, v in setting.optimizer.items() if all(getattr(p.optimizer, n) == v for p in plans)},
    )
    others = [name for name in setting.values if name not in kept.values]
    return kept, f"{', '.join(others)}: the edit or the domain decides" if others else None


def _cells(row: GridRow[GridSetting]) -> tuple[str, ...]:
    return (
        *map(written, row.point.values.values()),
        str(len(row.by_task)),
        str(row.num_edits),
        shown_estimate(row.score),
        "best" if row.is_best else shown_estimate(row.difference, signed=True),
        "" if row.is_best else _NOISE[row.within_noise],
        str(row.num_failed),
        "–" if row.num_tokens is None else f"{row.num_tokens:.0f}",
        f"{row.seconds:.1f}",
        str(row.num_unscored) if row.num_unscored else "",
    )
