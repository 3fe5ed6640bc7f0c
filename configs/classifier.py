"""The classifier alone: DenseNet121 on CheXpert's fourteen labels, scored by AUROC.

    python launch.py --config=configs/classifier.py

Laptop scale, on the phantom: about 4 minutes on 2 CPU cores. Paper scale: 3 epochs, batch 16; a GPU.
The semi-supervised and weak experiments reuse what this trains.
"""

from configs import base


def get_config(arg=None):
    return base.base("classifier", base.arguments(arg))
