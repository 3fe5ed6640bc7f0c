"""Pseudo-labeller `cam`: Grad-CAMs of the tasks, at feature size."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.models.normalisation import normalise
from chexseg_jax.pseudo.labeller import Images, Run, Saliency
from chexseg_jax.saliency.gradcam import grad_cam, scale_to_unit
from chexseg_jax.saved_model import restore
from chexseg_jax.training.inference import map_batches


def maps(run: Run, classifier: Path, sets: Mapping[str, Images]) -> Saliency:
    """Compute the Grad-CAMs of the weak and the expert images."""
    cams = {
        name: run.store.make(
            "cams",
            make_cams,
            collective=True,
            config=run.config.cams,
            classifier=classifier,
            images=images.prepared,
            rows=images.rows,
        )
        for name, images in sets.items()
    }
    return Saliency(cams, {"Grad-CAM": cams["weak"]})


def make_cams(
    part: Path, *, config: ConfigDict, classifier: Path, images: Path, rows: Int[np.ndarray, " N"]
) -> None:
    """Compute Grad-CAMs of `rows` of a prepared set.

    Args:
      part: receives records `maps` [h,w,K] float32 >= 0, in [0, 1) with `mirror` and not normalised without, aligned on
        `rows`. The map of a task for which the classifier has no output is 0.
      config: `plus_plus`; `mirror` (average the normalised maps of the radiograph and of its mirror image, as the
        published IRNet code averages its CAMs; the paper's CheXseg does not); `batch_size`.
      classifier: a saved classifier.
      images: prepared set.
      rows: of the radiographs.
    """
    model, chosen = restore(classifier), Prepared.load(images).take(rows)
    outputs = jnp.asarray(model.outputs_of(chosen.taxonomy))

    def maps_of(variables, batch):
        def cams(grey):
            _, found = grad_cam(
                model.module, variables, normalise(grey, model.normalisation), plus_plus=config.plus_plus
            )
            return jnp.where(outputs >= 0, found[..., outputs], 0)

        straight = cams(batch["image"])
        if not config.mirror:
            return straight
        mirrored = cams(batch["image"][:, :, ::-1])[:, :, ::-1]
        return (scale_to_unit(straight) + scale_to_unit(mirrored)) / 2

    def make(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        for batch in map_batches(
            maps_of,
            model.variables,
            Examples(image=chosen.images).take(some),
            batch_size=config.batch_size,
            what=f"Grad-CAM of {len(some)} images",
        ):
            yield from ({"maps": one} for one in batch)

    write_rows(part, len(rows), {"maps": "raw"}, make, batch=config.batch_size)
