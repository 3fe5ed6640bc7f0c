"""Tables of test scores: IoU beside the second reader's and that of centred boxes, and AUROC."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.report.tables import Table, interval, number

_BESIDE = {"box": "centred box, pooled", "reader": "second reader, pooled"}


def score_table(
    counts: Mapping[str, iou.Counts], tasks: Sequence[str], *, replicates: int
) -> tuple[Table, dict[str, Any]]:
    """The test scores as a table for people and as a dictionary for programs.

    Args:
      counts: of `model`, and of `box` and `reader` where they were counted.
      tasks: the names on the task axis of the counts.
      replicates: of the bootstrap.
    """
    model, names = counts["model"], (*tasks, "mean")
    positives = (model.positives > 0).sum(0)
    pooled = bootstrap.pooled_interval(model, replicates=replicates)
    per_image = _per_image_interval(model, replicates)
    beside = {name: bootstrap.with_mean(iou.pooled(counts[name])) for name in _BESIDE if name in counts}
    columns = {
        "pathology": [
            *(task if n else f"{task} (absent)" for task, n in zip(tasks, positives, strict=True)),
            f"**mean of {(positives > 0).sum()}**",
        ],
        "positive masks": [*map(str, positives), ""],
        "pooled IoU": [interval(*ends) for ends in zip(*pooled, strict=True)],
        "per-image IoU": [interval(*ends) for ends in zip(*per_image, strict=True)],
        **{_BESIDE[name]: list(map(number, values)) for name, values in beside.items()},
    }
    scores = {
        "positives": dict(zip(tasks, map(int, positives), strict=True)),
        "pooled": _named(names, pooled.estimate),
        "pooled_95": {k: list(ends) for k, *ends in zip(names, *map(_rounded, pooled[1:]), strict=True)},
        "per_image": _named(names, per_image.estimate),
        **{f"{name}_pooled": _named(names, values) for name, values in beside.items()},
    }
    return Table(list(columns), list(zip(*columns.values(), strict=True))), scores


def _per_image_interval(counts: iou.Counts, replicates: int) -> bootstrap.Interval:
    each = iou.per_image(counts)
    rows = bootstrap.draws(len(each), replicates=replicates)
    return bootstrap.percentile_interval(
        bootstrap.with_mean(iou.mean(each, axis=0)),
        bootstrap.with_mean(bootstrap.mean_replicates(each, rows)),
    )


def _rounded(values: Float[np.ndarray, " names"]) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]


def _named(names: Sequence[str], values: Float[np.ndarray, " names"]) -> dict[str, float | None]:
    return dict(zip(names, _rounded(values), strict=True))


def auroc_table(scores: Mapping[str, Path], taxonomy: Taxonomy) -> tuple[Table, dict[str, float]]:
    """AUROC by task from artifacts with an `auroc.json`, and the mean of each column."""
    columns = {
        f"{name}, {split}": bootstrap.with_mean(np.array([values[task] for task in taxonomy.tasks], float))
        for name, path in scores.items()
        for split, values in json.loads((path / "auroc.json").read_text()).items()
    }
    names = (*taxonomy.tasks, "**mean**")
    rows = [[name, *(number(column[k]) for column in columns.values())] for k, name in enumerate(names)]
    return Table(["pathology", *columns], rows), {name: float(c[-1]) for name, c in columns.items()}
