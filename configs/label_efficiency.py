"""Mean IoU by the number of expert masks: from how many on do pseudo-masks no longer pay?

    python launch.py --config=configs/label_efficiency.py
    python launch.py --config=configs/label_efficiency.py:smoke

p in {.9 (100 Grad-CAM pseudo-masks), 1} x {10, 20, 40, 80, all} expert images x 3 trials, each with its own draws. The
images that choose checkpoints are among them, by the same share as always. p = 1 runs on two clocks: the paper's
epochs, by which it has fewer steps than p = .9, and as many steps. The paper has all 187 of CheXpert.
In one work directory with configs/table1.py, the runs with all expert images are the same.

Laptop scale, on the phantom, after Table 1 in its work directory: 27 minutes on 2 CPU cores at 64 px
(benchmarks/results/phantom_label_efficiency.md). Paper scale, root=DIR: on GPUs; not run yet.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    table = {key: value for key, value in base.TABLE.items() if key not in ("trunk", "walk")}
    args = base.arguments(arg, **table)
    return base.table(
        "label_efficiency",
        args,
        p=(0.9, 1.0),
        init=("chexpert",),
        pseudo=("cam",),
        count=base.pseudo_counts(args)[:1],
        experts=(12, 0) if args.smoke else (10, 20, 40, 80, 0),
        clock=("epochs", "steps"),
    )
