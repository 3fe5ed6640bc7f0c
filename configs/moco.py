"""MoCo v2 on radiographs without labels: an encoder for `init=moco`, scored by a linear probe.

    python launch.py --config=configs/moco.py

Laptop scale, on the phantom: minutes on 2 CPU cores. Paper scale, root=DIR: 20 epochs of 224,316 images, batch 256, on
GPUs. With start=imagenet,weights=FILE it starts from ImageNet's weights, as MoCo-CXR does.
Segmentations with init=moco and the same `start` reuse this encoder.
"""

from chexseg_jax.errors import InputError
from configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.WEIGHTS)
    if args.weights and args.start != "imagenet":
        raise InputError("weights=FILE applies only with start=imagenet: give both, or neither")
    config = base.base("moco", "moco", args)
    if args.smoke:
        base.shrink(config)
    return config
