"""Transforms of a batch on the device: bit-planes to masks, augmentation.

Radiographs travel as uint8 and masks as one bit a pixel and task; everything else is computed here, under jit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8


def unpack_masks(planes: UInt8[Array, "*B P"], tasks: int) -> Float[Array, "*B K"]:
    """Bit-planes (`data.images.pack_masks`) to float32 masks in {0, 1} of K = `tasks`."""
    return jnp.unpackbits(planes, axis=-1, count=tasks, bitorder="little").astype(jnp.float32)


def pack_masks(masks: Bool[Array, "*B K"]) -> UInt8[Array, "*B P"]:
    """Masks to bit-planes: `data.images.pack_masks` on the device."""
    return jnp.packbits(masks, axis=-1, bitorder="little")


def augment(
    keys: Key[Array, " B"],
    images: UInt8[Array, "B S S"],
    planes: UInt8[Array, "B S S P"] | None = None,
) -> tuple[Float[Array, "B S S"], UInt8[Array, "B S S P"] | None]:
    """Flip, shift and zoom image and masks alike, and change the exposure; one random draw per example.

    Each example has its own key, so the draw does not depend on the distribution of the batch over devices. Shifts
    go up to 6 % of the side and zooms from 0.9 to 1.1 (nearest pixel); gain is 0.85 to 1.15 and offset +-12 grey
    levels. The flip is left-right: anatomically a situs inversus, yet it helps on small sets.
    """

    def one(key, image, plane):
        flip, zoom, shift, gain, offset = jax.random.split(key, 5)
        side = image.shape[0]
        scale = jax.random.uniform(zoom, (), minval=0.9, maxval=1.1)
        move = jax.random.uniform(shift, (2,), minval=-0.06, maxval=0.06) * side
        centre = (side - 1) / 2
        where = (jnp.arange(side) - centre) / scale + centre
        index = jnp.round(where[None] + move[:, None]).astype(jnp.int32)
        columns = jnp.where(jax.random.bernoulli(flip), index[1][::-1], index[1])
        inside = (index[0] >= 0) & (index[0] < side)
        inside = inside[:, None] & ((columns >= 0) & (columns < side))

        def move_pixels(x):
            moved = x[jnp.clip(index[0], 0, side - 1)][:, jnp.clip(columns, 0, side - 1)]
            return jnp.where(
                inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), moved, jnp.zeros((), x.dtype)
            )

        exposed = move_pixels(image).astype(jnp.float32) * jax.random.uniform(
            gain, (), minval=0.85, maxval=1.15
        )
        exposed = exposed + jax.random.uniform(offset, (), minval=-12.0, maxval=12.0)
        return jnp.clip(exposed, 0, 255), None if plane is None else move_pixels(plane)

    return jax.vmap(one)(keys, images, planes)


def view(key: Key[Array, ""], image: UInt8[Array, "S S"], *, crop: float, size: int) -> Float[Array, "s s"]:
    """One random view of a radiograph for contrastive learning, bilinear, black outside.

    A crop of `crop` to 1 of the area, resized to `size` pixels a side; a rotation of up to 10 degrees; a left-right
    flip; a gain of 0.9 to 1.1 and an offset of +-8 grey levels, small because findings often differ in grey level
    alone. Radiographs have no colour to jitter.
    """
    area, turn, flip, place, gain, offset = jax.random.split(key, 6)
    side = image.shape[0]
    zoom = jnp.sqrt(jax.random.uniform(area, (), minval=crop, maxval=1.0))
    angle = jax.random.uniform(turn, (), minval=-1.0, maxval=1.0) * (jnp.pi / 18)
    centre = jax.random.uniform(place, (2,), minval=-0.5, maxval=0.5) * (1 - zoom) * (side - 1)
    grid = (jnp.arange(size) - (size - 1) / 2) * (zoom * side / size)
    columns = jnp.where(jax.random.bernoulli(flip), -grid, grid)[None]
    rows = grid[:, None]
    at = [
        jnp.cos(angle) * rows - jnp.sin(angle) * columns + centre[0] + (side - 1) / 2,
        jnp.sin(angle) * rows + jnp.cos(angle) * columns + centre[1] + (side - 1) / 2,
    ]
    seen = jax.scipy.ndimage.map_coordinates(image.astype(jnp.float32), at, order=1)
    seen = seen * jax.random.uniform(gain, (), minval=0.9, maxval=1.1)
    return jnp.clip(seen + jax.random.uniform(offset, (), minval=-8.0, maxval=8.0), 0, 255)
