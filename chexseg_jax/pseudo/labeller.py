"""What a pseudo-labeller is: a way from a classifier to saliency maps of the weak and the expert images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Int
from ml_collections import ConfigDict
from numpy import ndarray

from chexseg_jax.artifact import Store
from chexseg_jax.errors import InputError


class Images(NamedTuple):
    """Some radiographs of a prepared set.

    Attributes:
      prepared: the set's artifact.
      rows: indices of the radiographs.
    """

    prepared: Path
    rows: Int[ndarray, " N"]


class Saliency(NamedTuple):
    """The saliency maps of a labeller.

    Attributes:
      maps: set's name -> artifact with records `maps` [h,w,K] >= 0, aligned on the set's rows.
      steps: title -> artifact with `maps` (and maybe `edges`) of the weak images, in order of computation, for reports.
      trainings: artifacts of the networks trained on the way.
    """

    maps: Mapping[str, Path]
    steps: Mapping[str, Path]
    trainings: Sequence[Path] = ()


@runtime_checkable
class Run(Protocol):
    """What a labeller may ask of the run that it works for (`experiment.Run`)."""

    @property
    def store(self) -> Store:
        """The artifacts."""

    @property
    def config(self) -> ConfigDict:
        """The run's configuration."""

    @property
    def apart(self) -> Mapping[str, Any]:
        """What `store.make` passes to trainings apart: `provenance`, and for `fit` the keys of `Apart`."""

    def classifier(self, section: str) -> Path:
        """The classifier of a section of the configuration, trained on the weak labels or imported."""

    def imagenet(self, model: str) -> Path:
        """A network trained on ImageNet."""

    def positives(self, count: int) -> Images:
        """So many weak images with a positive label, drawn at random (0: all); each draw contains the smaller ones."""


@dataclass(frozen=True)
class Labeller:
    """A pseudo-labeller.

    Attributes:
      title: in tables and legends.
      colour: in figures, `#rrggbb`.
      maps: (run, classifier, {"weak": images, "expert": images}) -> saliency maps of both sets.
      imagenet: (configuration) -> names of the networks whose ImageNet weights `maps` needs.
      threshold: from maps to masks: "tuned" per task on the expert training images, "otsu" per map, or one number in
        [0, 1) for all.
    """

    title: str
    colour: str
    maps: Callable[[Run, Path, Mapping[str, Images]], Saliency]
    imagenet: Callable[[ConfigDict], Sequence[str]] = lambda config: ()
    threshold: Literal["tuned", "otsu"] | float = "tuned"

    def parse_threshold(self, text: str) -> str | float:
        """The threshold rule of a configuration: `labeller` is this labeller's own.

        Raises:
          InputError: for anything but labeller, tuned, otsu or a number in [0, 1).
        """
        if text in ("labeller", "tuned", "otsu"):
            return self.threshold if text == "labeller" else text
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise InputError(
                f"config.pseudo_masks.threshold={text!r} must be labeller, tuned, otsu or a number in [0, 1)"
            )
        return value
