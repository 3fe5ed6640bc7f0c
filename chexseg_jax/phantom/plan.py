"""Who is X-rayed, how often, and what they have: the plan of a split, before anything is drawn.

Findings go together as in hospital: two hidden severities (critical illness, heart failure) load on each, the rest
is chance of the patient and of the study. A finding is given to the studies with the highest scores, **exactly as
many as its prevalence asks for**, and never to fewer than `SCARCE` of the studies: at 150 images every task has
its positives by design, not by luck.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.render import OPACITIES

#: Share of studies with a finding: (train, valid and test). CheXpert's and CheXlocalize's, rounded. That of Airspace
#: Opacity is of opacities without a named cause; with the named ones it comes to about a half.
PREVALENCE: dict[str, tuple[float, float]] = {
    "Airspace Opacity": (0.14, 0.18),
    "Atelectasis": (0.20, 0.28),
    "Cardiomegaly": (0.16, 0.28),
    "Consolidation": (0.10, 0.13),
    "Edema": (0.23, 0.22),
    "Enlarged Cardiomediastinum": (0.12, 0.26),
    "Lung Lesion": (0.065, 0.08),
    "Pleural Effusion": (0.38, 0.34),
    "Pneumothorax": (0.09, 0.09),
    "Support Devices": (0.52, 0.50),
}

#: No finding has fewer positives than this share of the studies (and one).
SCARCE = 0.065

#: Loadings on critical illness and on heart failure.
_LOADINGS: dict[str, tuple[float, float]] = {
    "Airspace Opacity": (0.25, -0.1),
    "Atelectasis": (0.55, 0.0),
    "Cardiomegaly": (0.0, 0.65),
    "Consolidation": (0.45, -0.1),
    "Edema": (0.35, 0.65),
    "Enlarged Cardiomediastinum": (0.1, 0.3),
    "Lung Lesion": (0.0, -0.1),
    "Pleural Effusion": (0.55, 0.35),
    "Pneumothorax": (0.25, -0.2),
    "Support Devices": (0.65, 0.15),
}

#: Share of the rest that stays with the patient from study to study.
_CHRONIC = 0.5

#: CheXpert numbers its patients so: train from 1, the official valid and test sets from here.
FIRST_PATIENT = {"train": 1, "valid": 64541, "test": 64741}


@dataclass(frozen=True)
class Shot:
    """One image to make."""

    split: str
    patient: int
    study: int
    view: int
    lateral: bool
    ap: bool
    findings: tuple[str, ...]  # drawn; `Airspace Opacity` here is one without a named cause

    @property
    def path(self) -> str:
        """As in CheXpert's tables."""
        side = "lateral" if self.lateral else "frontal"
        folder = f"CheXpert-v1.0-small/{self.split}/patient{self.patient:05d}/study{self.study}"
        return f"{folder}/view{self.view}_{side}.jpg"

    @property
    def id(self) -> str:
        """As in CheXlocalize's files."""
        return "_".join(self.path.removesuffix(".jpg").split("/")[2:])

    @property
    def present(self) -> frozenset[str]:
        """The tasks truly present: Airspace Opacity is also there wherever one of its named kinds is."""
        found = set(self.findings)
        if found & set(OPACITIES):
            found.add("Airspace Opacity")
        return frozenset(found)


def plan_splits(images: Mapping[str, int], seed: int) -> list[Shot]:
    """The images of train, valid and test, by split and patient; no patient is in two of them.

    Args:
      images: of each split.
      seed: of all.
    """
    shots: list[Shot] = []
    for split in FIRST_PATIENT:
        # A split with more patients than CheXpert numbers for it pushes the next ones on.
        first = max(FIRST_PATIENT[split], shots[-1].patient + 1 if shots else 0)
        shots += plan(split, images[split], seed, first=first)
    return shots


def plan(split: str, images: int, seed: int, *, first: int | None = None) -> list[Shot]:
    """The images of a split, by patient, from the number `first` on (that of `FIRST_PATIENT`).

    Train patients have one to four studies, a study one or two views (a second frontal one or a lateral); valid and
    test patients have one study. The last patient's views end where the number is reached.
    """
    rng = np.random.default_rng([seed, FIRST_PATIENT[split]])
    views: list[tuple[int, int, int, bool, bool]] = []  # patient, study, view, lateral, ap
    patient = FIRST_PATIENT[split] if first is None else first
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
    studies = sorted({view[:2] for view in views})
    found = dict(zip(studies, _findings([p for p, _ in studies], split == "train", rng), strict=True))
    return [Shot(split, *view, found[view[:2]]) for view in views]


def _findings(patients: list[int], train: bool, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The findings of every study; `patients` tells whose each is."""
    _, who = np.unique(patients, return_inverse=True)
    chronic = rng.standard_normal((who.max(initial=0) + 1, 2 + len(CHEXPERT.tasks)))
    acute = rng.standard_normal((len(patients), 2 + len(CHEXPERT.tasks)))
    hidden = math.sqrt(_CHRONIC) * chronic[who] + math.sqrt(1 - _CHRONIC) * acute
    has = np.zeros((len(patients), len(CHEXPERT.tasks)), bool)
    for k, task in enumerate(CHEXPERT.tasks):
        loading = np.array(_LOADINGS[task])
        score = hidden[:, :2] @ loading + math.sqrt(1 - loading @ loading) * hidden[:, 2 + k]
        share = max(PREVALENCE[task][0 if train else 1], SCARCE)
        has[np.argsort(-score, kind="stable")[: max(1, math.ceil(share * len(patients)))], k] = True
    return [tuple(task for task, on in zip(CHEXPERT.tasks, row, strict=True) if on) for row in has]
