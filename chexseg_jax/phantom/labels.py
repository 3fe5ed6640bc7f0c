"""Image labels: the truth for valid and test, and labels as mined from reports for train.

CheXpert's training labels were mined from reports. A mentioned finding is 1, one ruled out 0, a hedged one -1, and one
that the report omits is blank. `_RATES` gives, for each label, how often the miner hedges a present and an absent
finding, misses a present one, and claims or rules out an absent one. The rates of hedging are close to CheXpert's own
(highest for Atelectasis and Consolidation). Pneumonia follows consolidation; **Pleural Other and Fracture are never
drawn: in train they are label noise**.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT


class _Rates(NamedTuple):
    hedge_present: float
    hedge_absent: float
    miss: float  # leave a present finding blank
    claim: float  # label an absent finding as present
    rule_out: float  # label an absent finding as absent


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

#: How often a study without any finding is labelled No Finding; otherwise the label is blank.
_CLEAN = 0.85

Labels = dict[str, float | None]


def true_labels(present: Collection[str], rng: np.random.Generator) -> Labels:
    """Return the fourteen labels, 1 or 0, of a study with the given tasks, as in valid.csv and test_labels.csv.

    Half of the consolidations are pneumonia. No Finding is 1 if nothing but devices is present.
    """
    labels: Labels = dict.fromkeys(CHEXPERT.labels, 0.0)
    for task in CHEXPERT.tasks:
        labels[CHEXPERT.label(task)] = float(task in present)
    pneumonia = 0.5 if "Consolidation" in present else 0.1 if "Airspace Opacity" in present else 0.0
    labels["Pneumonia"] = float(rng.random() < pneumonia)
    labels["No Finding"] = float(
        not any(value for name, value in labels.items() if name != "Support Devices")
    )
    return labels


def mined_labels(truth: Labels, rng: np.random.Generator) -> Labels:
    """Return the labels mined from the report of a study: 1, 0, -1 (uncertain) or None (blank).

    No Finding is never 1 beside a present or uncertain finding.
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
