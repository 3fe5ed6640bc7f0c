"""A patient: the body that all of its studies and views share."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Patient:
    """The anatomy of one patient, in body units and radians."""

    number: int  # also seeds the vessels, so that every view shows the same ones
    sex: str
    age: int
    width: float  # half-width of the thorax
    apex: float  # v of the lung apices
    base: float  # v of the right dome of the diaphragm
    dome_left: float  # how much lower the left dome lies
    heart: float  # size of the healthy heart
    tilt: float  # of the heart's axis
    pedicle: float  # width of the great vessels
    knob: float  # how far the aortic knob protrudes
    habitus: float  # 0 slim .. 1 obese
    breast: float  # size, 0 none
    rib_spacing: float
    rib_phase: float
    arms: float  # distance of the arms from the chest
    sway: float  # of the spine
    stomach: float  # size of the stomach bubble, 0 none

    @classmethod
    def sample(cls, rng: np.random.Generator, number: int) -> "Patient":
        """Draw a patient at random."""
        sex = str(rng.choice(["Male", "Female"], p=[0.56, 0.44]))
        habitus = float(rng.beta(2.0, 2.6))
        return cls(
            number=number,
            sex=sex,
            age=int(np.clip(rng.normal(60, 17), 18, 90)),
            width=rng.uniform(0.92, 1.04),
            apex=rng.uniform(-1.02, -0.93),
            base=rng.uniform(0.50, 0.68),
            dome_left=rng.uniform(0.03, 0.12),
            heart=rng.uniform(0.88, 1.03),
            tilt=rng.uniform(0.45, 0.85),
            pedicle=rng.uniform(0.88, 1.1),
            knob=rng.uniform(0.04, 0.11),
            habitus=habitus,
            breast=float(rng.uniform(0.4, 1.0) * (0.6 + 0.6 * habitus)) if sex == "Female" else 0.0,
            rib_spacing=rng.uniform(0.185, 0.215),
            rib_phase=rng.uniform(-0.05, 0.05),
            arms=rng.uniform(0.0, 1.0),
            sway=rng.uniform(-0.04, 0.04),
            stomach=rng.uniform(0.6, 1.2) if rng.random() < 0.75 else 0.0,
        )

    def breathe_out(self, breath: float, magnify: float) -> "Patient":
        """Raise the diaphragm by `breath` units and magnify the heart, as on AP films."""
        return replace(self, base=self.base - breath, heart=self.heart * magnify)
