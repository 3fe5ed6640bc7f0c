"""Stage: Grad-CAMs of the ten tasks, at feature size, for some of a prepared set's radiographs."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.artifact import artifact
from chexseg_jax.data.prepared import ImageSource, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import label_indices
from chexseg_jax.models.normalisation import normalise
from chexseg_jax.saliency.gradcam import grad_cam, scale_to_unit
from chexseg_jax.saved_model import restore
from chexseg_jax.training.inference import map_batches


def make_cams(
    store: Path, config: ConfigDict, *, classifier: Path, images: Path, rows: Sequence[int]
) -> Path:
    """Grad-CAMs of `rows` of a prepared set.

    Args:
      store: the folder of artifacts.
      config: `plus_plus`; `mirror` (the mean of the normalised maps of the radiograph and of its mirror image, as the
        published IRNet code averages its CAMs; the paper's CheXseg does not); `batch_size`.
      classifier: artifact of `train_classifier`.
      images: artifact of `prepare`.
      rows: which of its radiographs.

    Returns:
      The artifact: `maps`, records [h,w,10] float32 >= 0, not normalised; aligned on `rows`.
    """
    key = {"config": config, "classifier": classifier.name, "images": images.name, "rows": digest(rows)}

    def make(part: Path) -> None:
        model = restore(classifier)
        tasks = jnp.asarray(label_indices())

        def maps_of(variables, batch):
            def maps(images):
                images = normalise(images, model.normalisation)
                _, found = grad_cam(model.module, variables, images, plus_plus=config.plus_plus)
                return found[..., tasks]

            straight = maps(batch["image"])
            if not config.mirror:
                return straight
            mirrored = maps(batch["image"][:, :, ::-1])[:, :, ::-1]
            return (scale_to_unit(straight) + scale_to_unit(mirrored)) / 2

        chosen = Prepared.load(images).take(rows)

        def found(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
            for batch in map_batches(
                maps_of,
                model.variables,
                ImageSource(chosen.take(some).images),
                batch_size=config.batch_size,
                what=f"Grad-CAM of {len(some)} images",
            ):
                yield from ({"maps": one} for one in batch)

        write_rows(part, len(rows), {"maps": "raw"}, found, batch=config.batch_size)

    return artifact(store, "cams", key, make, collective=True)


def digest(rows: Sequence[int]) -> str:
    """A short name for a choice of rows."""
    return hashlib.sha256(np.asarray(rows, np.int64).tobytes()).hexdigest()[:12]
