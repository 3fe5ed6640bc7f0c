"""What all experiments share: the arguments, the data, and both scales' settings.

`paper` is the published protocol (DenseNet121 and ResNet18 at 320 px, three epochs of CheXpert); it is what a
`root=DIR` (or CHEXPERT_ROOT) selects. `laptop` is for the phantom: 128 px, minutes on two cores, same code.
"""

import os

from ml_collections import ConfigDict

from chexseg_jax.config_args import Argument, OneOf, parse
from chexseg_jax.errors import InputError
from chexseg_jax.settings import PSEUDO_TITLES, Setting, Trial, single


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
    paper = _is_paper(args)
    config = ConfigDict()
    config.name = name
    config.seed = args.seed
    config.root = args.root  # set by the argument only: the scale follows from it
    config.scale = "paper" if paper else "laptop"
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


def _is_paper(args: ConfigDict) -> bool:
    if args.get("smoke"):
        if args.scale == "paper":
            raise InputError("smoke is small whatever the data are: give smoke or scale=paper, not both")
        return False
    return args.scale == "paper" or (args.scale == "auto" and bool(args.root))


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
            "start": "random",  # or imagenet, as MoCo-CXR's: `moco_from_imagenet`
            "options": _NETWORK,
            "batch_size": 256 if paper else 16,
            "epochs": 20.0,
            "learning_rate": 0.03,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            # A key's age gives it away where the encoder moves fast: an old key is no negative worth telling apart.
            "queue": 65536 if paper else 256,
            "key_momentum": 0.999 if paper else 0.99,
            "temperature": 0.2,
            "crop": 0.2 if paper else 0.4,
            "size": 320 if paper else 80,  # XLA on CPU is slow on the 2x2 maps that 64 px end in
            "norm_group": 32 if paper else 8,
            "checkpoint_every": 1000 if paper else 100,
        }
    )


def moco_from_imagenet(config: ConfigDict) -> None:
    """Pretraining that goes on from ImageNet's weights: at a tenth of the rate, on a laptop for a fifth of the time."""
    config.moco.update(start="imagenet", learning_rate=config.moco.learning_rate / 10)
    if config.scale != "paper":
        config.moco.epochs /= 5


def imagenet(weights: str) -> ConfigDict:
    """Where ImageNet's weights are, and what they belong to: see `stages.imagenet`.

    Not grey by default: one input channel takes 2 % off a step (DeepLabv3+ ResNet18, 320 px, batch 8, two CPU cores:
    2.58 s for 2.62, medians of nine), which is little against a stem that PyTorch's programs can read back.
    """
    return ConfigDict({"weights": weights, "stride_on": "conv2", "grey": False})


INITS = ("chexpert", "moco", "imagenet", "random")
PSEUDO = tuple(PSEUDO_TITLES)

#: What MoCo's pretraining starts from.
START = OneOf("random", "imagenet")
#: `paper` is the published recipe; `plus` adds what lifts it: see `_plus`.
RECIPE = OneOf("paper", "plus")

#: What all tables take.
TABLE = {
    "smoke": False,
    "recipe": RECIPE,
    "start": START,
    "encoder": OneOf("resnet18", "resnet50"),
    "weights": "",
    "trunk": OneOf("chexpert", "imagenet"),
}

#: What weak.py, full.py and semi.py take for the segmentation. Trials differ in the pseudo-set and in the
#: segmentation's seed; the classifiers are those of `seed`.
SEGMENTATION = {
    "init": OneOf(*INITS),
    "encoder": TABLE["encoder"],
    "weights": "",
    "trial": 0,
    "recipe": RECIPE,
    "start": START,
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
    setting = Setting.of(p, args.init, args.pseudo, args.count)
    for argument, given, needs, there in (
        ("start", args.start != "random", "init=moco", setting.init == "moco"),
        ("trunk", args.get("trunk", "chexpert") != "chexpert", "pseudo=irnet", setting.pseudo == "irnet"),
        (
            "weights",
            args.weights,
            "init=imagenet, start=imagenet or trunk=imagenet",
            "imagenet" in (args.init, args.start, args.get("trunk")),
        ),
    ):
        if given and not there:
            raise InputError(
                f"{argument}={args[argument]} has a meaning with {needs} only: give that too, or neither"
            )
    return single(_chain(name, args), Trial(setting, args.trial))


def table(
    name: str,
    args: ConfigDict,
    *,
    p: tuple[float, ...],
    init: tuple[str, ...],
    count: tuple[int, ...],
    weak_count: int = 0,
) -> ConfigDict:
    """Many runs of the chain: a grid of settings, some trials of each. What they have in common is made once."""
    config = _chain(name, args)
    config.grid = ConfigDict({"p": p, "init": init, "pseudo": PSEUDO, "count": count})
    config.weak_count = weak_count
    config.trials = 3
    config.shard = "1/1"  # i/n: every n-th run from the i-th, for one of n processes
    if config.scale == "laptop":  # a hundred runs in two hours: half the steps of a single one
        config.segmentation.update(steps=100, checkpoint_every=25)
    if args.smoke:
        _shrink(config)
    return config


def pseudo_counts(args: ConfigDict) -> tuple[int, ...]:
    """Sizes of pseudo-sets from small to large. A laptop's phantom has no more images with a positive label."""
    if args.smoke:
        return 20, 60
    return (100, 2000, 20000) if _is_paper(args) else (100, 300, 763)


def _shrink(config: ConfigDict) -> None:
    """All parts, each so small that the whole takes minutes: to see that it runs, and nothing else.

    On a user's data all images are prepared, and half of the weak ones seen by each classifier.
    """
    config.phantom.update(train=160, valid=60, test=30, size=96)
    config.data.size = 64
    config.trials = 2
    with config.unlocked():
        config.classifier = classifier(False, "resnet18", {})
    for section in (config.classifier, config.encoder, config.trunk):
        section.epochs = 0.5
    config.moco.epochs = 1.0
    config.irnet.update(steps=5, checkpoint_every=5)
    config.segmentation.update(steps=10, checkpoint_every=10)
    config.scores.bootstrap = 100


def _chain(name: str, args: ConfigDict) -> ConfigDict:
    """All stages that any setting needs."""
    config = base(name, args)
    paper = config.scale == "paper"
    config.split_seed = 0
    config.data.validation_share = 0.25
    config.encoder = classifier(paper, args.encoder, {})
    config.imagenet = imagenet(args.weights)
    config.moco = moco(paper, args.encoder)
    if args.start == "imagenet":
        moco_from_imagenet(config)
    config.trunk_init = args.get("trunk", "")
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
    config.refreshes = 0  # times that it goes on training, on masks of its own instead of the pseudo-masks
    config.scores = ConfigDict({"batch_size": 16, "bootstrap": 1000})
    if args.recipe == "plus":
        _plus(config)
    return config


def _plus(config: ConfigDict) -> None:
    """What lifted the published recipe on the phantom, as twice its steps do: benchmarks/results/phantom_recipe.md.

    Once trained, the segmentation makes the pseudo-masks anew and goes on training with these; it averages an image
    with its mirror image. Tried, and left out: cross-entropy beside dice, averaged weights,
    learning them from the start.
    """
    config.refreshes = 1
    config.segmentation.options.mirror = True
