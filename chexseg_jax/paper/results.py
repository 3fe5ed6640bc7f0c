"""What a table's finished runs scored: for each setting its trials."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chexseg_jax.evaluation.bootstrap import (
    Interval,
    draws,
    percentile_interval,
    pooled_interval,
    t_interval,
    trial_replicates,
    trial_scores,
)
from chexseg_jax.evaluation.iou import Counts
from chexseg_jax.settings import Setting
from chexseg_jax.stages.scores import load_counts


@dataclass(frozen=True)
class Run:
    """One finished trial: its number, its test counts, of the model and of the yardsticks, and its artifacts."""

    number: int
    counts: Mapping[str, Counts]
    model: Path
    scores: Path


class Results(dict[Setting, tuple[Run, ...]]):
    """Settings with their finished trials, in the order of the trials' numbers."""

    @classmethod
    def load(cls, store: Path, records: Mapping[tuple[Setting, int], Mapping[str, str]]) -> "Results":
        """Reads the counts of finished trials.

        Args:
          store: the folder of artifacts.
          records: for a setting and a trial's number, the names of its artifacts `model` and `scores`.
        """
        results: dict[Setting, tuple[Run, ...]] = {}
        for (setting, number), record in records.items():
            scores = store / record["scores"]
            one = Run(number, load_counts(scores), store / record["model"], scores)
            results[setting] = (*results.get(setting, ()), one)
        return cls(results)

    def counts(self, setting: Setting) -> list[Counts]:
        """The test counts of a setting's trials."""
        return [one.counts["model"] for one in self[setting]]

    def over_trials(self, setting: Setting) -> Interval:
        """Pooled IoU per task, and the mean as entry 10, with Student's interval over trials; nan for none."""
        return t_interval(trial_scores(self.counts(setting)))

    def best(self, settings: Iterable[Setting]) -> Setting | None:
        """The finished setting with the greatest mean test IoU, as the paper picks its best; None of none."""
        there = [setting for setting in settings if setting in self]
        return max(there, key=lambda s: self.over_trials(s).estimate[-1], default=None)

    @property
    def semi(self) -> Setting | None:
        """The best setting with both kinds of masks."""
        return self.best(s for s in self if 0 < s.p < 1)

    @property
    def weak(self) -> Setting | None:
        """The best setting with pseudo-masks alone."""
        return self.best(s for s in self if s.p == 0)

    @property
    def full(self) -> Setting | None:
        """The best setting with expert masks alone."""
        return self.best(s for s in self if s.p == 1)

    def compared(self, *, replicates: int) -> dict[str, tuple[str, Interval]]:
        """Who Figure 5 compares: `reader`, `semi` and `weak`, those that there are, each in words and with its IoUs.

        These are pooled IoU per task, and the mean as entry 10, with intervals by a bootstrap over test images.
        """
        bars = {}
        if reader := self.yardsticks.get("reader"):
            bars["reader"] = "second reader", pooled_interval(reader, replicates=replicates)
        for role, setting in (("semi", self.semi), ("weak", self.weak)):
            if setting:
                counts = self.counts(setting)
                rows = draws(len(counts[0].positives), replicates=replicates)
                ends = percentile_interval(trial_scores(counts).mean(0), trial_replicates(counts, rows))
                bars[role] = setting.words, ends
        return bars

    @property
    def yardsticks(self) -> Mapping[str, Counts]:
        """Counts of `box` and, where there is one, `reader`: the same for all runs."""
        runs: Sequence[Run] = next(iter(self.values()))
        return {name: counts for name, counts in runs[0].counts.items() if name != "model"}


def papers() -> dict[Setting, float]:
    """The mean IoU that the paper prints, on CheXpert's radiologists' masks; those of its numbers that we have."""
    with (Path(__file__).parent / "numbers.csv").open(newline="") as file:
        return {
            Setting(float(row["p"]), row["init"], row["pseudo"], int(row["pseudo_masks"])): float(row["miou"])
            for row in csv.DictReader(file)
        }
