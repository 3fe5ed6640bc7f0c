"""A model's test scores beside its yardsticks': as a table for people, as a dictionary for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.report.tables import interval, markdown, number


def score_table(counts: Mapping[str, iou.Counts], *, replicates: int) -> tuple[list[str], dict[str, Any]]:
    """The test scores as lines of Markdown, and for programs as a dictionary.

    Args:
      counts: of `model`, and of the yardsticks `box` and `reader` (see `score_segmentation`).
      replicates: of the bootstrap.
    """
    model = counts["model"]
    positives = (model.positives > 0).sum(0)
    pooled = bootstrap.pooled_interval(model, replicates=replicates)
    each = iou.per_image(model)
    rows = bootstrap.draws(len(each), replicates=replicates)
    per_image = bootstrap.percentile_interval(
        bootstrap.with_mean(iou.mean(each, axis=0)),
        bootstrap.with_mean(bootstrap.mean_replicates(each, rows)),
    )
    titles = {"box": "centred box, pooled", "reader": "second reader, pooled"}
    others = {name: bootstrap.with_mean(iou.pooled(counts[name])) for name in titles if name in counts}
    header = [
        "pathology",
        "positive masks",
        "pooled IoU",
        "per-image IoU",
        *(titles[name] for name in others),
    ]
    counted = [*map(str, positives), ""]
    names = [task if n else f"{task} (absent)" for task, n in zip(TASKS, positives, strict=True)]
    body = [
        [
            name,
            counted[k],
            interval(*(part[k] for part in pooled)),
            interval(*(part[k] for part in per_image)),
            *(number(values[k]) for values in others.values()),
        ]
        for k, name in enumerate((*names, f"**mean of {(positives > 0).sum()}**"))
    ]
    named = (*TASKS, "mean")
    scores = {
        "positives": dict(zip(TASKS, map(int, positives), strict=True)),
        "pooled": _named(named, pooled.estimate),
        "pooled_95": {k: [lo, hi] for k, lo, hi in zip(named, *map(_plain, pooled[1:]), strict=True)},
        "per_image": _named(named, per_image.estimate),
        **{f"{name}_pooled": _named(named, values) for name, values in others.items()},
    }
    return markdown(header, body), scores


def _plain(values: Float[np.ndarray, " K"]) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]


def _named(names: Sequence[str], values: Float[np.ndarray, " K"]) -> dict[str, float | None]:
    return dict(zip(names, _plain(values), strict=True))
