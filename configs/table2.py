"""The paper's Table 2 and Figure 3: weakly and fully supervised models by initialisation.

    python launch.py --config=configs/table2.py
    python launch.py --config=configs/table2.py:smoke
    python launch.py --config=configs/table2.py:encoder=resnet50,weights=FILE

{CheXpert, MoCo-CXR, ImageNet, random} x {CAM, IRNet} x {100, 2000, 20000} pseudo-masks x 3 trials; {100, 300, 763} on a
laptop's phantom, where 763 is all it has, so trials differ there by the segmentation's seed alone. For Figure 3 (a),
expert masks alone (p = 1) with each initialisation.
ImageNet needs weights of the encoder (`weights=FILE`, or the hub): without them its runs are named as absent, and the
command succeeds with the others. The paper's best: .142 (CAM), .156 (IRNet), with 20,000 pseudo-masks.

Laptop scale, on the phantom, after Table 1 in its work directory: 55 minutes on 2 CPU cores at 64 px with 100 and 300
pseudo-masks (benchmarks/results/phantom_table2.md). Paper scale, root=DIR: on GPUs; not run yet.
"""

from chexseg_jax.configs import base


def get_config(arg=None):
    args = base.arguments(arg, **base.TABLE)
    return base.table("table2", args, p=(0.0, 1.0), init=base.INITS, count=base.pseudo_counts(args))
