"""Weakly supervised segmentation: pseudo-masks only (the mixture's p = 0).

    python launch.py --config=configs/weak.py

Hardware and time as configs/semi.py. The paper's mIoU for it: .142 (CAM), .156 (IRNet), with 20,000 pseudo-masks
(its Table 1 takes them from Table 2): `count=20000`.
"""

from chexseg_jax.config_args import OneOf
from configs import base


def get_config(arg=None):
    args = base.arguments(
        arg, pseudo=OneOf("cam", "irnet"), trunk=OneOf("chexpert", "imagenet"), **base.SEGMENTATION, count=100
    )
    return base.segmentation("weak", args, p=0.0)
