"""The paper's Table 1 and Figures 2, 4 and 5: mixtures from weak (p = 0) to full supervision (p = 1).

    python launch.py --config=configs/table1.py
    python launch.py --config=configs/table1.py:smoke    # all of it, tiny: less than five minutes on 2 CPU cores
    python launch.py --config=configs/table1.py --config.shard=1/2    # and 2/2 beside it

p in {0, .2, .4, .6, .8, .85, .9, 1} x {CAM, IRNet} x 3 trials, each with its own 100 pseudo-masks; and Table 2's best
weak models, the paper's first column (shared with configs/table2.py in one work directory).
The paper's mean IoU: p = 0 .142 (CAM), .156 (IRNet); p = .9 .270, .267; p = 1 .246.
Segmentations run the paper's 20 epochs, by which 0 < p < 1 has the most steps; p = 0 and p = 1 run a second time with
as many. --config.segmentation.steps=N gives all of them N updates instead.
At the paper's scale configs/semi.py:p=0.9,trial=1 is one of its runs and reuses its stages.

Laptop scale, on the phantom: 90 minutes on 2 CPU cores at 64 px (--config.data.size=64 --config.weak_count=100; results
in benchmarks/results/phantom_table1.md), longer at the default 128 px. Paper scale, root=DIR: on GPUs; not run yet.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.TABLE)
    few, *_, many = base.pseudo_counts(args)
    p = (0.0, 0.9, 1.0) if args.smoke else (0.0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 1.0)
    clock = ("epochs", "steps")
    return base.table("table1", args, p=p, init=("chexpert",), count=(few,), weak_count=many, clock=clock)
