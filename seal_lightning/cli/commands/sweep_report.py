"""What a sweep found: the table, the JSON, and the best setting as a configuration to put on top of others."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seal_lightning.cli.commands.loading import load_settings, merged_settings
from seal_lightning.cli.commands.sweep_edits import LeftOut
from seal_lightning.core.errors import SealError, shown
from seal_lightning.core.estimates import estimate, shown_estimate
from seal_lightning.evaluation.sweep_grid import Setting, written
from seal_lightning.evaluation.sweeping import (
    GivenEdit,
    SettingRow,
    cheapest_within_noise,
    is_within_noise,
    paired,
)
from seal_lightning.storage.run_dir import RunDir

_MAX_ROWS = 50
_MIN_WIDTH = 140
_FEW_TASKS = 5
_MAX_TRIED = 8
"""Edits on whose plans a configuration is tried out."""
_NOISE = {True: "inside", False: "outside", None: "–"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The settings of a sweep, best first, with what they are held against."""

    options: argparse.Namespace
    rows: Sequence[SettingRow]
    unadapted: Mapping[str, float]
    """By task, the score without adaptation."""
    left_out: Sequence[LeftOut]
    round_index: int

    def publish(self, home: RunDir, files: Sequence[str | Path], given: Sequence[GivenEdit]) -> None:
        """Print the table and what it says, and write ``results/sweep.json`` and ``results/sweep_best.yaml``."""
        path = home.write_result("sweep", self._content())
        console = Console(markup=False, highlight=False, emoji=False)
        Console(width=max(console.width, _MIN_WIDTH)).print(self._table())  # a log file would get 80 columns
        for line in self._findings():
            console.print(Text(line), soft_wrap=True)
        if self.rows[0].score is not None:
            for line in self._write_best(home, files, given):
                console.print(Text(line), soft_wrap=True)
        console.print(Text(f"Every setting, with its scores by task: {path}"), soft_wrap=True)

    def _content(self) -> dict[str, Any]:
        names = ("grid", "tasks", "edits", "num_edits", "num_seeds", "score", "policy")
        rows = [asdict(row) | {"setting": row.setting.values, "name": row.setting.name} for row in self.rows]
        return {
            **{name: getattr(self.options, name) for name in names},
            "round": self.round_index,
            "best": self.rows[0].setting.name,
            "cheapest_within_noise": cheapest_within_noise(self.rows).setting.name,
            "unadapted_by_task": dict(self.unadapted),
            "left_out": [asdict(one) for one in self.left_out],
            "settings": rows,
        }

    def _table(self) -> Table:
        table = Table(title=f"{self.options.score} after adaptation: mean ± standard error over tasks")
        fields = list(self.rows[0].setting.values)
        columns = (*fields, "tasks", "edits", self.options.score, "vs best", "noise", "failed", "tokens", "seconds")
        for column in columns:
            table.add_column(column, justify="right")
        if any(row.num_unscored for row in self.rows):
            table.add_column("unscored", justify="right")
        for row in self.rows[:_MAX_ROWS]:
            table.add_row(*_cells(row), *([str(row.num_unscored)] if len(table.columns) > len(columns) else []))
        table.add_section()
        against = paired(self.unadapted, self.rows[0].by_task)
        values = list(self.unadapted.values())
        noise = _NOISE[is_within_noise(against)]
        label = ["no adaptation", *[""] * (len(fields) - 1)]
        table.add_row(
            *label, str(len(values)), "", shown_estimate(estimate(values)), shown_estimate(against, signed=True), noise
        )
        return table

    def _findings(self) -> list[str]:
        """What the table says, and what it does not."""
        lines = []
        if len(self.rows) > _MAX_ROWS:
            lines.append(f"… and {len(self.rows) - _MAX_ROWS} more settings, in the JSON")
        lines.append(
            "vs best: paired by task · noise: whether 0 is in the difference's 95 % interval (Student's t) · failed: "
            "diverged, counted with the score without adaptation · tokens, seconds: of training, a candidate"
        )
        if self.left_out:
            first = self.left_out[0]
            where = f"first of {shown(first.task_id)}: {shown(first.reason)}"
            lines.append(f"{len(self.left_out)} edits left out under every setting, {where}")
        best, others = self.rows[0], self.rows[1:]
        if best.score is None:
            return [*lines, "Nothing could be scored, so no setting is the best."]
        lines.append(f"Best: {best.setting.name}")
        if best.score.n < 2:
            return [*lines, "One task gives no standard error: nothing here tells settings apart. Take more tasks."]
        if best.score.n < _FEW_TASKS:
            lines.append(f"Of {best.score.n} tasks the standard errors are rough themselves: take more to choose by.")
        alike = [row for row in others if row.within_noise]
        if alike:
            cheapest = cheapest_within_noise(self.rows)
            tokens = f"{cheapest.num_tokens or 0:.0f} tokens a candidate, the best takes {best.num_tokens or 0:.0f}"
            named = "the best itself" if cheapest is best else f"{cheapest.setting.name} ({tokens})"
            lines.append(
                f"{len(alike)} of the {len(others)} other settings are inside the noise: over {best.score.n} tasks this "
                f"sweep does not tell them from the best. Cheapest of these: {named}"
            )
        elif others:
            lines.append(
                "All other settings are worse than the best by more than the noise, which was chosen by this score."
            )
        if is_within_noise(paired(self.unadapted, best.by_task)) or best.score.mean <= _mean(self.unadapted):
            lines.append("The best is inside the noise of no adaptation, or below it: no setting is shown to help.")
        if self.options.tasks == "test":
            lines.append("These are the test tasks: a setting chosen on them makes a later `seal test` look too good.")
        return lines

    def _write_best(self, home: RunDir, files: Sequence[str | Path], given: Sequence[GivenEdit]) -> list[str]:
        """``sweep_best.yaml`` with what of the best setting a configuration can say; returns what to tell the user."""
        without_edit = self.options.edits == "passage"
        kept, why_not = configurable(self.rows[0].setting, files, given, without_edit=without_edit)
        lines = [f"No configuration of this domain can say {why_not}"] if why_not else []
        if not kept.values:
            return lines
        text = f"# {self.rows[0].setting.name}: the best of {len(self.rows)} settings by {self.options.score}\n"
        path = home.write_text_result("sweep_best", "yaml", text + yaml.safe_dump(as_configuration(kept)))
        named = " ".join(f"-c {file}" for file in (*files, path))
        return [*lines, f"The best as a configuration: seal fit {named}{' --run_dir NEW' if self.options.run else ''}"]


def as_configuration(setting: Setting) -> dict[str, Any]:
    """A setting as it stands in a configuration; both of the package's domains have these arguments."""
    parts = {"adapter": setting.adapter, "optimizer": setting.optimizer}
    plain = {
        part: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        for part, values in parts.items()
        if values
    }
    return {"model": {"domain": {"init_args": plain}}}


def configurable(
    setting: Setting, files: Sequence[str | Path], given: Sequence[GivenEdit], *, without_edit: bool
) -> tuple[Setting, str | None]:
    """What of a setting a configuration on top of the files can say, and why not the rest.

    Tried out on the plans of some edits: in a domain whose edits say the learning rate (ARC), a configuration does not.
    """
    try:
        text = yaml.safe_dump(as_configuration(setting), default_flow_style=True, width=math.inf)
        module, _ = load_settings(merged_settings([*files, text]), "the configuration would be refused")
        plans = [
            module.domain.plan_without_edit(one.task) if without_edit else module.domain.plan(one.task, one.edit)
            for one in given[:_MAX_TRIED]
        ]
    except SealError as error:
        return Setting(), f"{setting.name}: {error}"
    kept = Setting(
        adapter={n: v for n, v in setting.adapter.items() if all(getattr(p.adapter, n) == v for p in plans)},
        optimizer={n: v for n, v in setting.optimizer.items() if all(getattr(p.optimizer, n) == v for p in plans)},
    )
    others = [name for name in setting.values if name not in kept.values]
    return kept, f"{', '.join(others)}: the edit or the domain decides" if others else None


def _cells(row: SettingRow) -> list[str]:
    return [
        *map(written, row.setting.values.values()),
        str(len(row.by_task)),
        str(row.num_edits),
        shown_estimate(row.score),
        "best" if row.is_best else shown_estimate(row.difference, signed=True),
        "" if row.is_best else _NOISE[row.within_noise],
        str(row.num_failed),
        "–" if row.num_tokens is None else f"{row.num_tokens:.0f}",
        f"{row.seconds:.1f}",
    ]


def _mean(scores: Mapping[str, float]) -> float:
    found = estimate(list(scores.values()))
    return -math.inf if found is None else found.mean
