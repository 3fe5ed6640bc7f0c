"""Semi-supervised segmentation: expert masks with probability p, pseudo-masks otherwise (the paper's method).

    python launch.py --config=configs/semi.py:p=0.9

Laptop scale, on the phantom: 8 to 10 minutes on 2 quiet CPU cores; pseudo=irnet adds 5 (its ResNet50 trunk 3).
Paper scale, root=DIR: 3 epochs of 224,316 images for each of two classifiers dominate; a GPU.
The paper's mIoU for it: .270 (CAM), .267 (IRNet).
"""

from chexseg_jax.config_args import OneOf, Within
from configs import base


def get_config(arg=None):
    args = base.arguments(
        arg,
        p=Within(0.9, 0.0, 1.0),
        pseudo=OneOf("cam", "irnet"),
        trunk=OneOf("chexpert", "imagenet"),
        **base.SEGMENTATION,
        count=100,
    )
    return base.segmentation("semi", args, p=args.p)
