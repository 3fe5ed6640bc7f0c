"""What all experiments share: the arguments, the data, and both scales' settings.

`paper` is the published protocol (DenseNet121 and ResNet18 at 320 px, three epochs of CheXpert); it is what a
`root=DIR` (or CHEXPERT_ROOT) selects. `laptop` is for the phantom: 128 px, minutes on two cores, same code.
"""

import os

from ml_collections import ConfigDict

from chexseg_jax.config_args import Argument, OneOf, parse


def arguments(arg: str | None, **more: Argument) -> ConfigDict:
    return parse(
        arg,
        seed=0,
        root=os.environ.get("CHEXPERT_ROOT", ""),
        scale=OneOf("auto", "laptop", "paper"),
        **more,
    )


def base(name: str, args: ConfigDict) -> ConfigDict:
    """Name, seed, root, scale, data, phantom and classifier: enough for configs/classifier.py."""
    scale = ("paper" if args.root else "laptop") if args.scale == "auto" else args.scale
    paper = scale == "paper"
    config = ConfigDict()
    config.name = name
    config.seed = args.seed
    config.root = args.root  # set by the argument only: the scale follows from it
    config.scale = scale
    # steps "10:15": a trace of steps 10 to 15 of each training; hlo: its HLO. docs/profiling.md.
    config.profile = ConfigDict({"steps": "", "hlo": False})
    config.data = ConfigDict(
        {
            "size": 320 if paper else 128,
            "views": "both" if paper else "frontal",
            "uncertainty": "ignore",
            "max_missing": 0.01,
        }
    )
    config.phantom = ConfigDict(
        {"train": 1000, "valid": 200, "test": 150, "size": 160, "seed": 0, "conspicuity": 1.5}
    )
    config.classifier = classifier(paper, "densenet121", {} if paper else {"output_stride": 16})
    return config


#: What every network is made with, besides what is its own: `dtype` of the computation, `remat` to spare memory.
_NETWORK = {"dtype": "float32", "remat": False}


def classifier(paper: bool, model: str, options: dict) -> ConfigDict:
    """Training of a classifier on the fourteen labels."""
    return ConfigDict(
        {
            "model": model,
            "options": _NETWORK | options,
            "batch_size": 16 if paper else 8,
            "epochs": 3.0,
            "learning_rate": 1e-4 if paper else 1e-3,
            "warmup_share": 0.0 if paper else 0.1,
            "decay": not paper,
            "augment": not paper,
            "checkpoint_every": 4800 if paper else 115,
        }
    )


def moco(paper: bool, model: str) -> ConfigDict:
    """Training of an encoder without labels. On few images the momentum encoder has to move faster."""
    return ConfigDict(
        {
            "model": model,
            # XLA on CPU is slow on 2x2 maps: at 64 px the last stage keeps its 4x4.
            "options": _NETWORK | ({} if paper else {"output_stride": 16}),
            "batch_size": 256 if paper else 32,
            "epochs": 20.0,
            "learning_rate": 0.03,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "queue": 65536 if paper else 512,
            "key_momentum": 0.999 if paper else 0.99,
            "temperature": 0.2,
            "crop": 0.2 if paper else 0.5,
            "size": 320 if paper else 64,
            "norm_group": 32 if paper else 16,
            "checkpoint_every": 1000 if paper else 100,
        }
    )


#: What weak.py, full.py and semi.py take for the segmentation's encoder.
ENCODERS = {
    "init": OneOf("chexpert", "moco", "imagenet", "random"),
    "encoder": OneOf("resnet18", "resnet50"),
    "weights": "",
}


def irnet(paper: bool) -> tuple[ConfigDict, ConfigDict]:
    """Training of IRNet, and the walks on its boundaries. Distances are in pixels of a map at stride 4."""
    training = ConfigDict(
        {
            "dtype": "float32",
            "batch_size": 16,
            "steps": 2000 if paper else 150,
            "learning_rate": 0.1,
            "momentum": 0.0,
            "displacement_rate": 10.0,
            "decay_power": 0.9,
            "radius": 10 if paper else 5,
            "foreground": 0.3,
            "background": 0.05,
            "crf": False,
            "augment": True,
            "checkpoint_every": 500 if paper else 75,
        }
    )
    walk = ConfigDict(
        {
            # The published walk moves half a lung away on the laptop's 32x32 maps, and splits their few pixels.
            "radius": 5 if paper else 3,
            "beta": 10.0 if paper else 20.0,
            "exp_times": 8,
            "instances": paper,
            "foreground": 0.3,
            "batch_size": 16,
        }
    )
    return training, walk


def segmentation(name: str, args: ConfigDict, *, p: float) -> ConfigDict:
    """The whole chain: classifier, Grad-CAMs, pseudo-masks, DeepLabv3+ on a mixture, scores."""
    config = base(name, args)
    paper = config.scale == "paper"
    config.p = p
    config.init = args.init
    config.pseudo = args.pseudo
    config.pseudo_count = args.count
    config.split_seed = 0
    config.data.validation_share = 0.25
    config.encoder = classifier(paper, args.encoder, {})
    config.imagenet = ConfigDict({"weights": args.weights, "stride_on": "conv2", "grey": False})
    if args.init == "moco":
        config.moco = moco(paper, args.encoder)
    if args.pseudo == "irnet":
        config.trunk_init = args.trunk
        config.trunk = classifier(paper, "resnet50", {})
        config.irnet, config.walk = irnet(paper)
    config.cams = ConfigDict({"plus_plus": False, "mirror": not paper, "batch_size": 16})
    config.pseudo_masks = ConfigDict({"threshold": "tuned", "gate": True})
    config.segmentation = ConfigDict(
        {
            "model": f"deeplabv3plus_{args.encoder}",
            "options": _NETWORK | ({} if paper else {"aspp_dropout": 0.1}),
            "batch_size": 8,
            "steps": 4000 if paper else 200,
            "learning_rate": 0.0,  # 0: the published rule, 1e-3 on small sets and 1e-4 on large
            "warmup_share": 0.0 if paper else 0.1,
            "decay": not paper,
            "augment": not paper,
            "checkpoint_every": 200 if paper else 40,
        }
    )
    config.scores = ConfigDict({"batch_size": 16, "bootstrap": 1000})
    return config
