"""Pseudo-labellers: how saliency maps are computed from a classifier, before a threshold turns them into masks."""

from chexseg_jax.pseudo import cam, irnet
from chexseg_jax.pseudo.labeller import Images, Labeller, Saliency

__all__ = ["LABELLERS", "Images", "Labeller", "Saliency"]

#: By the name in configurations: `pseudo=irnet`.
LABELLERS: dict[str, Labeller] = {
    "cam": Labeller("CAM", "#0072b2", cam.maps),
    "irnet": Labeller("IRNet", "#d55e00", irnet.maps, irnet.imagenet, threshold=irnet.BACKGROUND),
}
