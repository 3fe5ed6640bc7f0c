"""Fully supervised segmentation: expert masks only (the mixture's p = 1).

    python launch.py --config=configs/full.py
    python launch.py --config=configs/full.py:smoke    # the same, tiny

Hardware and time as for configs/semi.py, without the saliency classifier. The paper's mIoU: .246.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    return base.segmentation("full", base.arguments(arg, **base.SEGMENTATION), p=1.0)
