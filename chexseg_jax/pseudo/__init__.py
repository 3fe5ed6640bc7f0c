"""Pseudo-labellers: how saliency maps are made from a classifier before they are thresholded into pseudo-masks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Labeller:
    """One way from a classifier to saliency maps.

    Attributes:
      title: in tables and legends.
      colour: in figures, `#rrggbb`.
      threshold: from maps to masks: "tuned" per task on the expert training images, "otsu" per map, or one number in
        [0, 1) for all.
    """

    title: str
    colour: str
    threshold: Literal["tuned", "otsu"] | float = "tuned"


#: By the name that configurations use: `pseudo=irnet`.
LABELLERS: dict[str, Labeller] = {
    "cam": Labeller("CAM", "#0072b2"),
    "irnet": Labeller("IRNet", "#d55e00"),
}
