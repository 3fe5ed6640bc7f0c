"""Image labels: the truth for valid and test, and what a report labeller makes of it for train.

CheXpert's train labels were mined from reports. A mentioned finding is 1, a ruled-out one 0, a hedged one -1, and
what the report passes over is blank. `_RATES` gives, for each column, how often the miner hedges a present and an
absent finding, misses a present one and claims an absent one; the hedges come to about CheXpert's own (Atelectasis
and Consolidation most). Pneumonia follows consolidation; **Pleural Other and Fracture are not drawn: label noise**.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT


@dataclass(frozen=True)
class _Rates:
    hedge_present: float
    hedge_absent: float
    miss: float  # a present finding left blank
    claim: float  # an absent one said to be there
    rule_out: float  # an absent one explicitly denied


_RATES: dict[str, _Rates] = {
    "Enlarged Cardiomediastinum": _Rates(0.12, 0.045, 0.06, 0.010, 0.09),
    "Cardiomegaly": _Rates(0.07, 0.030, 0.04, 0.010, 0.05),
    "Lung Opacity": _Rates(0.03, 0.020, 0.05, 0.020, 0.03),
    "Lung Lesion": _Rates(0.04, 0.005, 0.04, 0.005, 0.01),
    "Edema": _Rates(0.09, 0.045, 0.03, 0.015, 0.09),
    "Consolidation": _Rates(0.16, 0.110, 0.05, 0.010, 0.13),
    "Pneumonia": _Rates(0.30, 0.070, 0.05, 0.010, 0.02),
    "Atelectasis": _Rates(0.26, 0.125, 0.04, 0.015, 0.02),
    "Pneumothorax": _Rates(0.04, 0.012, 0.03, 0.008, 0.25),
    "Pleural Effusion": _Rates(0.06, 0.045, 0.03, 0.015, 0.18),
    "Pleural Other": _Rates(0.10, 0.008, 0.05, 0.012, 0.01),
    "Fracture": _Rates(0.04, 0.002, 0.05, 0.035, 0.01),
    "Support Devices": _Rates(0.005, 0.003, 0.03, 0.010, 0.04),
}

#: How often a study whose findings are all absent is labelled so, rather than not spoken of.
_CLEAN = 0.85

Labels = dict[str, float | None]


def true_labels(present: Collection[str], rng: np.random.Generator) -> Labels:
    """The fourteen labels, 1 or 0, of a study with the given tasks, as in valid.csv and test_labels.csv.

    Half of the consolidations are pneumonia. No Finding is 1 when nothing but devices is there.
    """
    labels: Labels = dict.fromkeys(CHEXPERT.labels, 0.0)
    for task in CHEXPERT.tasks:
        labels[CHEXPERT.label(task)] = float(task in present)
    pneumonia = 0.5 if "Consolidation" in present else 0.1 if "Airspace Opacity" in present else 0.0
    labels["Pneumonia"] = float(rng.random() < pneumonia)
    labels["No Finding"] = float(
        not any(labels[name] for name in CHEXPERT.labels if name != "Support Devices")
    )
    return labels


def mined_labels(truth: Labels, rng: np.random.Generator) -> Labels:
    """What a labeller mines from the report of a study: 1, 0, -1 (uncertain) or None (blank).

    No Finding is never 1 beside a finding said to be present or uncertain.
    """
    labels: Labels = {}
    for name, rates in _RATES.items():
        luck = rng.random()
        if truth[name]:
            labels[name] = -1.0 if luck < rates.hedge_present else None if luck > 1 - rates.miss else 1.0
        elif luck < rates.hedge_absent:
            labels[name] = -1.0
        elif luck < rates.hedge_absent + rates.claim:
            labels[name] = 1.0
        else:
            labels[name] = 0.0 if luck > 1 - rates.rule_out else None
    if labels["Pneumonia"] == 1.0 and labels["Lung Opacity"] is None:
        labels["Lung Opacity"] = 1.0
    clean = not any(value for name, value in labels.items() if name != "Support Devices")
    labels["No Finding"] = 1.0 if clean and rng.random() < _CLEAN else None
    return {name: labels[name] for name in CHEXPERT.labels}
