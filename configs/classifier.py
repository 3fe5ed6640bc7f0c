"""The classifier alone: DenseNet121 on the image labels, scored by AUROC.

    python launch.py --config=configs/classifier.py

Laptop scale, on the phantom: about 4 minutes on 2 CPU cores. Paper scale: 3 epochs, batch 16, on a GPU.
Semi-supervised and weak runs with the same settings reuse this classifier.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.CLASSIFIER)
    config = base.base("classifier", "classifier", args)
    base.check_weights(config)
    if args.smoke:
        base.shrink(config)
    return config
