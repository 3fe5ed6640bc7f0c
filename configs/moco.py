"""MoCo v2 on radiographs without labels: an encoder for `init=moco`, scored by a linear probe.

    python launch.py --config=configs/moco.py

Laptop scale, on the phantom: minutes on 2 CPU cores. Paper scale, root=DIR: 20 epochs of 223,414 images, batch 256, on
GPUs. It starts from ImageNet's weights there, as MoCo-CXR does; on a laptop with moco_start=imagenet.
Segmentations with init=moco and the same `moco_start` reuse this encoder.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.MOCO)
    config = base.base("moco", "moco", args)
    base.check_weights(config)
    if args.smoke:
        base.shrink(config)
    return config
