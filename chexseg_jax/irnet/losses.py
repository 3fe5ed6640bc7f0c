"""IRNet's losses: seed labels of pixel pairs supervise the boundary map and the displacement field.

Equations (3) to (7) of Gadgil et al. 2021, after Ahn et al. 2019. The sign of (3) is the published code's: for a field
that points to the centroid, x_j - x_i = D(x_i) - D(x_j).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from chexseg_jax.irnet.paths import affinity, margin, shifted, table
from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND
from chexseg_jax.models.layers import PRECISION

_EPSILON = 1e-5


def irnet_loss(
    edge_logits: Float[Array, "B H W"],
    displacement: Float[Array, "B H W 2"],
    labels: UInt8[Array, "B H W K"],
    *,
    radius: int,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute the total loss (7) and its terms over the global batch.

    A pair counts for a pathology if neither pixel is ignored: as a background or foreground pair if both pixels have
    that label, as a negative pair if their labels differ. The affinity terms (5, 6) are -log a_ij, and
    -log(1 - a_ij) for negative pairs. The displacement terms (3, 4) are `|D(x_i) - D(x_j) - (x_j - x_i)|` for
    foreground pairs and `|D(x_i) - D(x_j)|` for background pairs. Each term is the sum over pathologies of the mean
    over a pathology's pairs, so that a small finding weighs as much as a large one:
    total = (bg + fg) / 4 + neg / 2 + (disp fg + disp bg) / 2.

    Args:
      edge_logits: of the boundary map.
      displacement: D, as (dy, dx) in pixels of the map.
      labels: seeds of each pathology (see `seeds.seeds`).
      radius: use pairs nearer than this, in pixels.
      axis_name: the mapped axis that the batch is split over.

    Returns:
      total, {"background", "foreground", "negative", "displacement_foreground", "displacement_background"}.
    """
    reach = margin(radius)
    edge = jax.nn.sigmoid(edge_logits)
    labels, field = jnp.moveaxis(labels, -1, 0), jnp.moveaxis(displacement, -1, 1)
    own_labels, own_field = (shifted(x, (0, 0), reach) for x in (labels, field))
    is_background, is_foreground = own_labels == BACKGROUND, own_labels == FOREGROUND

    def direction(sums, path):
        dst, pixels = path
        neighbours = shifted(labels, dst, reach)
        also_background, also_foreground = neighbours == BACKGROUND, neighbours == FOREGROUND
        pairs = {  # [K, B, h, w]
            "background": is_background & also_background,
            "foreground": is_foreground & also_foreground,
            "negative": (is_background & also_foreground) | (is_foreground & also_background),
        }
        a = affinity(edge, pixels, reach)
        positive_loss, negative_loss = -jnp.log(a + _EPSILON), -jnp.log(1 + _EPSILON - a)
        difference = own_field - shifted(field, dst, reach)
        foreground_error, background_error = (
            jnp.abs(x).mean(1) for x in (difference - dst[:, None, None], difference)
        )
        costs = {  # [B, h, w]
            "background": (positive_loss, background_error),
            "foreground": (positive_loss, foreground_error),
            "negative": (negative_loss, jnp.zeros_like(a)),
        }
        added = [
            jnp.einsum(
                "kbhw,cbhw->kc",
                pairs[kind].astype(a.dtype),
                jnp.stack([*costs[kind], jnp.ones_like(a)]),
                precision=PRECISION,
            )
            for kind in pairs
        ]
        return sums + jnp.stack(added), None

    # A loop over directions, recomputed in the backward pass, for the reasons in `paths.affinities`. It stays one on a
    # GPU, where only its body is unrolled: 12 CPU seconds to compile radius 10, the directions unrolled over 70.
    start = jnp.zeros((3, len(labels), 3)) + 0 * edge[0, 0, 0]  # varies over devices, as the sums do
    sums, _ = jax.lax.scan(jax.checkpoint(direction), start, tuple(map(jnp.asarray, table(radius))))
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    (bg, disp_bg), (fg, disp_fg), (neg, _) = (sums[..., :2] / (sums[..., 2:] + _EPSILON)).sum(1)
    total = (bg + fg) / 4 + neg / 2 + (disp_fg + disp_bg) / 2
    terms = (bg, fg, neg, disp_fg, disp_bg)
    names = ("background", "foreground", "negative", "displacement_foreground", "displacement_background")
    return total, dict(zip(names, terms, strict=True))
