"""MoCo v2 on radiographs, without labels: an encoder for `init=moco`, judged by a linear probe.

    python launch.py --config=configs/moco.py

Laptop scale, on the phantom: minutes on 2 CPU cores.
With start=imagenet,weights=FILE it goes on from ImageNet's weights, as MoCo-CXR does.
Paper scale, root=DIR: 20 epochs of 224,316 images, batch 256; GPUs.
weak.py, full.py and semi.py with init=moco train the same encoder, or reuse this one, given the same `start`.
"""

from chexseg_jax.config_args import OneOf
from chexseg_jax.errors import InputError
from configs import base


def get_config(arg=None):
    args = base.arguments(arg, encoder=OneOf("resnet18", "resnet50"), start=base.START, weights="")
    config = base.base("moco", args)
    del config.classifier
    config.moco = base.moco(config.scale == "paper", args.encoder)
    if args.weights and args.start != "imagenet":
        raise InputError("weights=FILE is what start=imagenet goes on from: give both")
    if args.start == "imagenet":
        base.moco_from_imagenet(config)
        config.imagenet = base.imagenet(args.weights)
    return config
