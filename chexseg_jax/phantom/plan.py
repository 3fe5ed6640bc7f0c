"""Plan a split before anything is drawn: its patients, their studies and views, and the findings.

Findings co-occur as in a hospital: two hidden severities (critical illness, heart failure) load on each finding; the
rest is chance, partly of the patient and partly of the study. The studies with the highest scores get the finding,
**exactly as many as its prevalence requires**, and never fewer than the share `SCARCE`. Every task therefore has
positives by design, not by luck, even with 150 images.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.view import View


class Occurrence(NamedTuple):
    """How often a finding occurs, and with which illness."""

    train: float  # share of the training studies
    expert: float  # share of the valid and test studies
    illness: float  # loading on critical illness
    failure: float  # loading on heart failure


#: Shares are CheXpert's and CheXlocalize's, rounded. Airspace Opacity counts only opacities without a named cause;
#: with the named ones its share is about a half.
OCCURRENCE: dict[str, Occurrence] = {
    "Airspace Opacity": Occurrence(0.14, 0.18, 0.25, -0.1),
    "Atelectasis": Occurrence(0.20, 0.28, 0.55, 0.0),
    "Cardiomegaly": Occurrence(0.16, 0.28, 0.0, 0.65),
    "Consolidation": Occurrence(0.10, 0.13, 0.45, -0.1),
    "Edema": Occurrence(0.23, 0.22, 0.35, 0.65),
    "Enlarged Cardiomediastinum": Occurrence(0.12, 0.26, 0.1, 0.3),
    "Lung Lesion": Occurrence(0.065, 0.08, 0.0, -0.1),
    "Pleural Effusion": Occurrence(0.38, 0.34, 0.55, 0.35),
    "Pneumothorax": Occurrence(0.09, 0.09, 0.25, -0.2),
    "Support Devices": Occurrence(0.52, 0.50, 0.65, 0.15),
}

#: Every finding is present in at least this share of the studies, and in at least one.
SCARCE = 0.065

#: Share of the chance that belongs to the patient and persists from study to study.
_CHRONIC = 0.5

#: First patient number of each split, as in CheXpert: train, the official valid and test sets.
FIRST_PATIENT = {"train": 1, "valid": 64541, "test": 64741}


def plan_splits(
    images: Mapping[str, int], *, seed: int, size: int = 320, conspicuity: float = 1.0
) -> list[View]:
    """Plan train, valid and test, ordered by split and patient; no patient is in two splits.

    Args:
      images: number of images in each split.
      seed, size, conspicuity: see `View`.
    """
    views: list[View] = []
    for split, number in FIRST_PATIENT.items():
        # A split with more patients than CheXpert reserves numbers for moves the next splits on.
        first = max(number, views[-1].patient + 1 if views else 0)
        views += plan(split, images[split], first=first, seed=seed, size=size, conspicuity=conspicuity)
    return views


def plan(
    split: str, images: int, *, first: int, seed: int, size: int = 320, conspicuity: float = 1.0
) -> list[View]:
    """Plan the images of one split, ordered by patient; patients are numbered from `first`.

    Train patients have one to four studies, and a study one or two views (a lateral one or a second frontal one).
    Valid and test patients have one study. The number of images may cut off views of the last patient.
    """
    rng = np.random.default_rng([seed, FIRST_PATIENT[split]])
    views: list[tuple[int, int, int, bool, bool]] = []  # patient, study, number, lateral, ap
    patient = first
    while len(views) < images:
        studies = min(4, int(rng.geometric(0.6))) if split == "train" else 1
        for study in range(1, studies + 1):
            ap = bool(rng.random() < 0.7)
            views.append((patient, study, 1, False, ap))
            second = rng.random()
            if second < 0.10:
                views.append((patient, study, 2, True, False))
            elif second < 0.18 and split == "train":
                views.append((patient, study, 2, False, ap))
        patient += 1
    views = views[:images]
    keys = sorted({view[:2] for view in views})
    findings = dict(zip(keys, _sample_findings([key[0] for key in keys], split, rng), strict=True))
    return [View(seed, split, *view, findings[view[:2]], size, conspicuity) for view in views]


def _sample_findings(patients: list[int], split: str, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Sample the findings of every study; `patients` names the patient of each."""
    tasks = CHEXPERT.tasks
    _, patient_row = np.unique(patients, return_inverse=True)
    chronic = rng.standard_normal((patient_row.max(initial=0) + 1, 2 + len(tasks)))
    acute = rng.standard_normal((len(patients), 2 + len(tasks)))
    hidden = math.sqrt(_CHRONIC) * chronic[patient_row] + math.sqrt(1 - _CHRONIC) * acute
    present = np.zeros((len(patients), len(tasks)), bool)
    for k, task in enumerate(tasks):
        occurrence = OCCURRENCE[task]
        loading = np.array([occurrence.illness, occurrence.failure])
        score = hidden[:, :2] @ loading + math.sqrt(1 - loading @ loading) * hidden[:, 2 + k]
        share = max(occurrence.train if split == "train" else occurrence.expert, SCARCE)
        count = max(1, math.ceil(share * len(patients)))
        present[np.argsort(-score, kind="stable")[:count], k] = True
    return [tuple(task for task, on in zip(tasks, row, strict=True) if on) for row in present]
