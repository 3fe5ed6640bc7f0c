"""Configurations whose runs take seconds and together have every stage: `--config=tests/faults/small.py:NAME`.

NAME is moco (the pretraining), init_moco (a segmentation that starts from it) or table (Grad-CAM and IRNet).
"""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[i]) for i in (1, 2)]

from tiny import Tiny

from chexseg_jax.models.zoo import ENCODERS
from configs import full, moco, table1

ENCODERS["tiny"] = Tiny


def get_config(arg="table"):
    """The configuration called `arg`."""
    config = {"moco": moco, "init_moco": full, "table": table1}[arg].get_config(
        {"moco": "smoke", "init_moco": "smoke,init=moco", "table": "smoke"}[arg]
    )
    config.phantom.update(train=24, valid=16, test=6, size=64)
    config.data.size = 32
    for network in (config.classifier, config.encoder, config.trunk):
        network.update(batch_size=8, epochs=2.0, checkpoint_every=2)
    config.classifier.model = config.encoder.model = "tiny"
    config.moco.update(batch_size=8, epochs=2.0, queue=16, norm_group=2, size=32, checkpoint_every=2)
    config.irnet.update(batch_size=2, steps=4, radius=3, checkpoint_every=2)
    config.segmentation.update(steps=6, batch_size=8, checkpoint_every=2)
    config.scores.bootstrap = 50
    if arg == "table":
        config.grid.update(p=(0.5,), count=(6,), clock=("epochs",))
        config.update(weak_count=12, trials=1)
    return config
