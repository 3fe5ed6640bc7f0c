"""One image of the phantom, described by everything that its pixels and masks depend on."""

from dataclasses import dataclass

import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.patient import Patient

#: Findings that radiologists also call, and annotate as, Airspace Opacity.
OPACITIES = ("Atelectasis", "Consolidation", "Edema")


@dataclass(frozen=True)
class View:
    """One image: the same view has the same bytes on any machine."""

    seed: int
    split: str  # train, valid or test
    patient: int
    study: int
    number: int  # of the view within its study
    lateral: bool
    ap: bool
    findings: tuple[str, ...]  # tasks to draw; `Airspace Opacity` here is one without a named cause
    size: int  # of the short side, pixels
    conspicuity: float = 1.0

    @property
    def path(self) -> str:
        """Path of the image, as in CheXpert's tables."""
        side = "lateral" if self.lateral else "frontal"
        folder = f"CheXpert-v1.0-small/{self.split}/patient{self.patient:05d}/study{self.study}"
        return f"{folder}/view{self.number}_{side}.jpg"

    @property
    def id(self) -> str:
        """Image id, as in CheXlocalize's files."""
        return "_".join(self.path.removesuffix(".jpg").split("/")[2:])

    @property
    def present(self) -> frozenset[str]:
        """Tasks that are present. Each of `OPACITIES` also counts as Airspace Opacity."""
        implied = {"Airspace Opacity"} if set(self.findings) & set(OPACITIES) else set()
        return frozenset(implied.union(self.findings))

    def rng(self, *purpose: int) -> np.random.Generator:
        """Return an independent random stream of the patient.

        Purposes: 0 patient, 1 camera and film, 2 noise, 3 findings, 4 second reader, 5 labels.
        """
        return np.random.default_rng([self.seed, self.patient, *purpose])

    def finding_rng(self, task: str) -> np.random.Generator:
        """Return the stream of a finding. It depends on the study and the task alone, so all views agree."""
        return self.rng(3, self.study, CHEXPERT.tasks.index(task))

    def sample_patient(self) -> Patient:
        """Sample the patient, who is the same in every view."""
        return Patient.sample(self.rng(0), self.patient)
