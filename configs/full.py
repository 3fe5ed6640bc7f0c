"""Fully supervised segmentation: expert masks only (the mixture's p = 1).

    python launch.py --config=configs/full.py

Hardware and time as configs/semi.py, less the saliency classifier. The paper's mIoU for it: .246.
"""

from configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.SEGMENTATION)
    args.unlock()
    args.update(pseudo="", count=0)
    return base.segmentation("full", args, p=1.0)
