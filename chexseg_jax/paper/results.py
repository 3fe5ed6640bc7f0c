"""Scores of a table's finished runs: for each setting its trials."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chexseg_jax.evaluation.bootstrap import Interval, pooled_interval, t_interval, trial_scores
from chexseg_jax.evaluation.iou import Counts, load_counts
from chexseg_jax.settings import Setting, Trial


@dataclass(frozen=True)
class Run:
    """A finished trial: its number, the artifact of its scores, and the counts of `model`, `box` and maybe `reader`."""

    number: int
    scores: Path
    counts: Mapping[str, Counts]


class Results(dict[Setting, tuple[Run, ...]]):
    """Settings with their finished trials, in the order of the trials' numbers."""

    @classmethod
    def load(cls, finished: Mapping[Trial, Path]) -> "Results":
        """Read the counts of finished trials, each with its artifact `scores`."""
        results = cls()
        for (setting, number), scores in finished.items():
            results[setting] = (*results.get(setting, ()), Run(number, scores, load_counts(scores)))
        return results

    def counts(self, setting: Setting) -> list[Counts]:
        """The test counts of a setting's trials."""
        return [run.counts["model"] for run in self[setting]]

    def over_trials(self, setting: Setting) -> Interval:
        """Pooled IoU by task and, last, the mean, with Student's intervals over trials."""
        return t_interval(trial_scores(self.counts(setting)))

    def best(self, settings: Iterable[Setting]) -> Setting | None:
        """The finished setting with the greatest mean test IoU, by which the paper picks its best."""
        finished = [setting for setting in settings if setting in self]
        return max(finished, key=lambda s: self.over_trials(s).estimate[-1], default=None)

    @property
    def semi(self) -> Setting | None:
        """The best setting with expert and pseudo-masks, on the paper's clock."""
        return self.best(s for s in self if 0 < s.p < 1)

    @property
    def weak(self) -> Setting | None:
        """The best setting with pseudo-masks alone, on the paper's clock."""
        return self.best(s for s in self if s.p == 0 and s.clock == "epochs")

    @property
    def full(self) -> Setting | None:
        """The best setting with expert masks alone, on the paper's clock."""
        return self.best(s for s in self if s.p == 1 and s.clock == "epochs")

    def compared(self, *, replicates: int) -> dict[str, tuple[str, Interval]]:
        """The bars of Figure 5, `reader`, `semi` and `weak`, each with its description.

        Intervals are of pooled IoU by task and, last, the mean, by a bootstrap over test images.
        """
        bars = {}
        if reader := self.yardsticks.get("reader"):
            bars["reader"] = "second reader", pooled_interval(reader, replicates=replicates)
        for role, setting in (("semi", self.semi), ("weak", self.weak)):
            if setting:
                bars[role] = setting.words, pooled_interval(*self.counts(setting), replicates=replicates)
        return bars

    @property
    def yardsticks(self) -> Mapping[str, Counts]:
        """Counts of `box` and, if any, `reader`: the same in all runs, but the box is sized on a run's expert masks."""
        first = self[max(self, key=lambda setting: setting.experts == 0)][0]
        return {name: counts for name, counts in first.counts.items() if name != "model"}
