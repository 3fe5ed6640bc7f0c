"""Weakly supervised segmentation: pseudo-masks only (the mixture's p = 0).

    python launch.py --config=configs/weak.py

Hardware and time as for configs/semi.py. The paper's mIoU: .142 (CAM) and .156 (IRNet) with 20,000 pseudo-masks, of
its Table 2: `count=20000`.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    return base.segmentation("weak", base.arguments(arg, **base.PSEUDO, **base.SEGMENTATION), p=0.0)
