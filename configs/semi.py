"""Semi-supervised segmentation: expert masks with probability p, pseudo-masks otherwise (the paper's method).

    python launch.py --config=configs/semi.py:p=0.9
    python launch.py --config=configs/semi.py:p=0.9,smoke    # the whole chain, tiny, in about a minute

Laptop scale, on the phantom: 10 minutes on 2 fast CPU cores, 21 on slow ones; pseudo=irnet adds half as much.
Paper scale, root=DIR: on a GPU; 3 epochs of 223,414 images for each of two classifiers dominate.
The paper's mIoU: .270 (CAM), .267 (IRNet).
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    args = base.arguments(arg, p=base.P, **base.PSEUDO, **base.SEGMENTATION)
    return base.segmentation("semi", args, p=args.p)
