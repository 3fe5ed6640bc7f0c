"""Shared by all experiments: arguments, and every section of a configuration.

`PAPER` is the published protocol (docs/protocol.md goes through it line by line); `root=DIR` or the variable
CHEXPERT_ROOT selects it. `LAPTOP` is for the phantom: 128 px, minutes on two cores, the same code. The two
dicts below hold everything that differs between them.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from chexseg_jax.config_args import Argument, parse
from chexseg_jax.errors import InputError
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.settings import SINGLE, TABLE_ONLY, Setting, Trial, imagenet_networks, trials

LAPTOP: dict[str, Any] = {
    # validation: expert images held out to choose checkpoints, a share in (0, 1) or a number.
    "data": {"size": 128, "views": "frontal", "validation": 0.25},
    "starts": {
        "classifier_start": "random",
        "encoder_start": "random",
        "moco_start": "random",
        "trunk": "chexpert",
    },
    "training": {  # of the classifiers
        "batch_size": 8,
        "learning_rate": 1e-3,
        "warmup_share": 0.1,
        "decay": True,
        "augment": True,
        "checkpoint_every": 115,
    },
    "classifier.options": {"output_stride": 16},
    "moco": {
        "batch_size": 16,
        "queue": 256,
        "key_momentum": 0.99,  # on few images the momentum encoder has to move faster
        "crop": 0.4,
        "size": 80,  # XLA on CPU is slow on the 2x2 maps that 64 px end in
        "norm_group": 8,
        "checkpoint_every": 100,
    },
    "irnet": {"count": 0, "steps": 150, "radius": 5, "checkpoint_every": 75},
    "walk": {  # on maps of 32x32 pixels, a seed spreads over the same share of the side
        "chexseg": {"radius": 2, "beta": 5.0, "exp_times": 2, "instances": False},
        "pascal": {"radius": 2, "beta": 10.0, "exp_times": 8, "instances": True},
    },
    "cams": {"mirror": True},
    "segmentation": {
        "steps": 200,  # of a single run; the tables count epochs
        "warmup_share": 0.1,
        "decay": True,
        "augment": True,
        "checkpoint_every": 40,
    },
    "segmentation.options": {"aspp_dropout": 0.1},
    "counts": (
        100,
        300,
        763,
    ),  # pseudo-masks of a table; the phantom has no more images with a positive label
}

PAPER: dict[str, Any] = {
    "data": {"size": 320, "views": "both", "validation": 40.0},
    "starts": {
        "classifier_start": "imagenet",
        "encoder_start": "imagenet",
        "moco_start": "imagenet",
        "trunk": "imagenet",
    },
    "training": {
        "batch_size": 16,
        "learning_rate": 1e-4,
        "warmup_share": 0.0,
        "decay": False,
        "augment": False,
        "checkpoint_every": 4800,
    },
    "classifier.options": {},
    "moco": {
        "batch_size": 256,
        "queue": 65536,
        "key_momentum": 0.999,
        "crop": 0.2,
        "size": 320,
        "norm_group": 32,
        "checkpoint_every": 1000,
    },
    "irnet": {"count": 20000, "steps": 2000, "radius": 10, "checkpoint_every": 500},
    "walk": {  # on maps of 80x80 pixels; IRNet's own values, for PASCAL VOC, move half a lung
        "chexseg": {"radius": 3, "beta": 5.0, "exp_times": 3, "instances": False},
        "pascal": {"radius": 5, "beta": 10.0, "exp_times": 8, "instances": True},
    },
    "cams": {"mirror": False},
    "segmentation": {
        "steps": 0,
        "warmup_share": 0.0,
        "decay": False,
        "augment": False,
        "checkpoint_every": 200,
    },
    "segmentation.options": {},
    "counts": (100, 2000, 20000),
}

#: Options of every network: the dtype of its computation, and rematerialisation to save memory.
_NETWORK = {"dtype": "float32", "remat": False}
_SCALES = {"laptop": LAPTOP, "paper": PAPER}

INITS = ("chexpert", "moco", "imagenet", "random")

#: Arguments of every configuration.
COMMON: dict[str, Argument] = {
    "seed": Argument(0, "seed of everything"),
    "scale": Argument.one_of(
        "auto: the paper's with a root, a laptop's on the phantom", "auto", "laptop", "paper"
    ),
    "smoke": Argument(False, "a switch: everything tiny, in a few minutes"),
}


def _start_of(network: str) -> Argument:
    meaning = f"start of {network}; auto: imagenet at the paper's scale, else random"
    return Argument.one_of(meaning, "auto", "random", "imagenet")


_CLASSIFIER_START = _start_of("the DenseNet121 whose saliency maps become pseudo-masks")
_WEIGHTS = Argument("", "file or folder of ImageNet's weights; without it, torchvision's cache, then the hub")
#: Arguments of a classifier and of MoCo.
CLASSIFIER: dict[str, Argument] = {"classifier_start": _CLASSIFIER_START, "weights": _WEIGHTS}
MOCO: dict[str, Argument] = {
    "encoder": Argument.one_of("network of MoCo and the segmentation's encoder", "resnet18", "resnet50"),
    "moco_start": _start_of("MoCo, behind init=moco"),
    "weights": _WEIGHTS,
}
#: Arguments of a segmentation, and those of its pseudo-masks. Trials differ in the pseudo-masked images and in the
#: segmentation's seed; they share the classifiers of `seed`. `encoder_from` and `classifier` take a network trained
#: elsewhere instead of training one: a file of PyTorch weights, or a folder with a model.json.
SEGMENTATION: dict[str, Argument] = {
    "init": Argument.one_of("initialisation of the segmentation's encoder", *INITS),
    "trial": Argument(
        0, "other pseudo-masked images and another seed of the segmentation; the classifiers stay"
    ),
    "experts": Argument(0, "images with expert masks to use, for training and validation together; 0: all"),
    "encoder_start": _start_of("the classifier behind init=chexpert"),
    "encoder_from": Argument(
        "", "encoder trained elsewhere, in place of init: a file of PyTorch weights or a folder"
    ),
    **MOCO,
}
PSEUDO: dict[str, Argument] = {
    "pseudo": Argument.one_of("pseudo-labeller", *LABELLERS),
    "trunk": Argument.one_of(
        "IRNet's frozen ResNet50: from ImageNet (auto: at the paper's scale), or a classifier trained here",
        *("auto", "chexpert", "imagenet"),
    ),
    "walk": Argument.one_of(
        "constants of IRNet's random walk: the CheXseg code's, or IRNet's own", "chexseg", "pascal"
    ),
    "count": Argument(100, "number of pseudo-masked images"),
    "classifier_start": _CLASSIFIER_START,
    "classifier": Argument(
        "", "classifier trained elsewhere, in place of training one: a file of PyTorch weights or a folder"
    ),
}
P = Argument(0.9, "probability of an expert example", within=(0.0, 1.0))
#: Arguments of a table.
TABLE: dict[str, Argument] = {
    key: value
    for key, value in {**SEGMENTATION, **PSEUDO}.items()
    if key not in ("init", "trial", "pseudo", "count", "experts")
}
_ROOT = "folder of your data; by default the variable CHEXPERT_ROOT, else the phantom"


def arguments(arg: str | None, **more: Argument) -> ConfigDict:
    """Parse what follows the colon of `--config=FILE:key=value,...`."""
    args = parse(arg, **COMMON, root=Argument(os.environ.get("CHEXPERT_ROOT", ""), _ROOT), **more)
    if args.smoke and args.scale == "paper":
        raise InputError("smoke is small on any data: give smoke or scale=paper, not both")
    if args.scale == "auto":
        with args.unlocked():
            args.scale = "paper" if args.root and not args.smoke else "laptop"
    return args


def _start(args: ConfigDict, argument: str) -> str:
    """The start of a network: the argument's, or the scale's default."""
    chosen = args.get(argument, "auto")
    return _SCALES[args.scale]["starts"][argument] if chosen == "auto" else chosen


def base(name: str, kind: str, args: ConfigDict) -> ConfigDict:
    """A configuration with every section; `kind` says what runs."""
    scale, encoder = _SCALES[args.scale], args.get("encoder", "resnet18")
    if args.get("classifier") and args.classifier_start != "auto":
        raise InputError(
            f"classifier_start={args.classifier_start}: an imported classifier is not trained; leave it out"
        )
    config = ConfigDict(
        {
            "name": name,
            "kind": kind,
            "seed": args.seed,
            "root": args.root,
            "scale": args.scale,
            # The run, or a table's runs: see settings.py.
            **SINGLE,
            **TABLE_ONLY,
            # steps "10:15" traces steps 10 to 15 of each training; hlo dumps its program. See docs/profiling.md.
            "profile": {"steps": "", "hlo": False},
            # Of each training, so many steps are skipped whose loss or update is not finite; one more ends it.
            "skip_steps": 0,
            # On a GPU, the same bits in every run; slower. A CPU gives them anyway.
            "deterministic": False,
            "data": {**scale["data"], "uncertainty": "ignore", "max_missing": 0.01},
            "split_seed": 0,
            "phantom": {"train": 1000, "valid": 200, "test": 150, "size": 160, "seed": 0, "conspicuity": 1.5},
            # The classifiers that saliency maps, the segmentation's encoder and IRNet's trunk come from.
            "classifier": _classifier(args, "classifier_start", "densenet121", scale["classifier.options"]),
            "encoder": _classifier(args, "encoder_start", encoder),
            "imported": {"classifier": args.get("classifier", ""), "encoder": args.get("encoder_from", "")},
            "trunk_init": _start(args, "trunk"),
            "trunk": _classifier(args, "classifier_start", "resnet50"),
            "imagenet": {"weights": args.get("weights", ""), "stride_on": "conv2"},
            "moco": {
                "start": _start(args, "moco_start"),
                "options": _NETWORK,
                "epochs": 20.0,
                "learning_rate": 0.03,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "temperature": 0.2,
                **scale["moco"],
            },
            "cams": {"plus_plus": False, "batch_size": 16, **scale["cams"]},
            # Distances are in pixels of a map at stride 4.
            "irnet": {
                "dtype": "float32",
                "batch_size": 16,
                "learning_rate": 0.1,
                "momentum": 0.0,
                "displacement_rate": 10.0,
                "decay_power": 0.9,
                "foreground": 0.3,
                "background": 0.05,
                "augment": True,
                **scale["irnet"],
            },
            "walk": {"foreground": 0.3, "batch_size": 16, **scale["walk"][args.get("walk", "chexseg")]},
            # threshold: labeller (its own default), tuned, otsu or a number. degenerate: keep or unknown, see
            # stages/pseudo_masks.py.
            "pseudo_masks": {"threshold": "labeller", "gate": True, "degenerate": "keep"},
            "segmentation": {
                "decoder": "deeplabv3plus",
                "options": _NETWORK | scale["segmentation.options"],
                "batch_size": 8,
                "epochs": 20.0,  # of expert and pseudo-masked images together; `steps` other than 0 overrides it
                "learning_rate": 0.0,  # 0: the published rule, 1e-3 on small sets and 1e-4 on large
                **scale["segmentation"],
            },
            "scores": {"batch_size": 16, "bootstrap": 1000},
        }
    )
    if config.moco.start == "imagenet":  # a tenth of the rate and, on a laptop, a fifth of the time
        config.moco.learning_rate /= 10
        config.moco.epochs /= 1 if args.scale == "paper" else 5
    return config


def _classifier(
    args: ConfigDict, start: str, model: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    training = _SCALES[args.scale]["training"]
    options = _NETWORK | (options or {})
    return {"model": model, "options": options, "start": _start(args, start), "epochs": 3.0, **training}


def segmentation(name: str, args: ConfigDict, *, p: float) -> ConfigDict:
    """One run of the whole chain: classifier, saliency, pseudo-masks, a segmentation on the mixture, scores."""
    count = args.get("count", 0)
    count = min(count, 20) if args.smoke else count
    (init,) = _inits(args, (args.init,))
    setting = Setting.of(p, init, args.get("pseudo", ""), count, args.experts)
    _check_used(args, (setting.init,), (setting.pseudo,))
    config = Trial(setting, args.trial).config(base(name, "segmentation", args))
    check_weights(config)
    if args.smoke:
        shrink(config)
    return config


def table(
    name: str,
    args: ConfigDict,
    *,
    p: tuple[float, ...],
    init: tuple[str, ...],
    count: tuple[int, ...],
    weak_count: int = 0,
    **grid: tuple[Any, ...],
) -> ConfigDict:
    """Many runs: a grid of settings, some trials of each."""
    config, inits = base(name, name, args), _inits(args, init)
    with config.unlocked():
        config.grid.update(p=p, init=inits, count=count, **grid)
    config.weak_count = weak_count
    _check_used(args, inits, config.grid.pseudo)
    check_weights(config, *(trial.config(config) for trial in trials(config)))
    if config.scale == "laptop":  # the paper's epochs, where a single run counts steps
        config.segmentation.update(steps=0, checkpoint_every=100)
    if args.smoke:
        config.trials = 2
        shrink(config)
    return config


def _check_used(args: ConfigDict, inits: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """Refuse an argument of a network that no run has, with these initialisations and kinds of pseudo-masks."""
    for argument, unset, used, needs in (
        ("classifier_start", "auto", any(kinds), "p below 1"),
        ("encoder_start", "auto", "chexpert" in inits, "init=chexpert"),
        ("moco_start", "auto", "moco" in inits, "init=moco"),
        ("trunk", "auto", "irnet" in kinds, "pseudo=irnet"),
        ("walk", "chexseg", "irnet" in kinds, "pseudo=irnet"),
    ):
        if args.get(argument, unset) != unset and not used:
            raise InputError(
                f"{argument}={args[argument]} applies only with {needs}: give that too, or neither"
            )


def check_weights(*runs: ConfigDict) -> None:
    """Refuse `weights=` if no run starts from ImageNet's weights."""
    config = runs[0]
    if config.imagenet.weights and not any(map(imagenet_networks, runs)):
        raise InputError(
            f"weights={config.imagenet.weights} applies only to what starts from ImageNet: give one of "
            "init, classifier_start, encoder_start, moco_start, trunk = imagenet, or no weights"
        )


def _inits(args: ConfigDict, inits: tuple[str, ...]) -> tuple[str, ...]:
    """The initialisations, with an imported encoder instead of that of a classifier trained here."""
    if not args.encoder_from:
        return inits
    if "chexpert" not in inits:
        raise InputError(
            f"encoder_from={args.encoder_from} takes the place of init: leave init={inits[0]} out"
        )
    if args.encoder != MOCO["encoder"].default:
        raise InputError(
            f"encoder={args.encoder}: the network is that of encoder_from={args.encoder_from}; leave encoder out"
        )
    return tuple("imported" if init == "chexpert" else init for init in inits)


def pseudo_counts(args: ConfigDict) -> tuple[int, ...]:
    """Numbers of pseudo-masks in tables, from small to large."""
    return (20, 60) if args.smoke else _SCALES[args.scale]["counts"]


def shrink(config: ConfigDict) -> None:
    """Make every part so small that the whole takes minutes: it shows that everything runs, and nothing else.

    On a user's data all images are still prepared, and half of the weak ones are seen by each classifier.
    """
    config.phantom.update(train=160, valid=60, test=30, size=96)
    config.data.size = 64
    with config.unlocked():
        config.classifier = ConfigDict({**config.encoder, "start": config.classifier.start})
    for section in (config.classifier, config.encoder, config.trunk):
        section.epochs = 0.5
    config.moco.epochs = 1.0
    config.irnet.update(steps=5, checkpoint_every=5)
    config.segmentation.update(steps=10, checkpoint_every=10)
    config.scores.bootstrap = 100
