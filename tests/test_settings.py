"""What a flag may set."""

import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.settings import check, trials
from configs import classifier, full, moco, semi, table1, table2, weak


@pytest.mark.parametrize("file", [classifier, full, moco, semi, table1, table2, weak])
def test_what_the_configs_give_is_let_through(file):
    check(file.get_config())


#: What is behind the colon: the common sections, and all of them.
COMMON, ALL = "p=0.9", "p=0.9,pseudo=irnet,init=moco"


@pytest.mark.parametrize(
    ("arg", "path", "value", "told"),
    [
        (COMMON, "init", "imagnet", "config.init='imagnet' is none of random, imagenet, moco, chexpert"),
        (COMMON, "pseudo", "irnett", "none of cam, irnet"),
        (COMMON, "pseudo", "irnet", "behind the colon, configs/semi.py:pseudo=irnet"),
        (COMMON, "init", "moco", "behind the colon, configs/semi.py:init=moco"),
        (COMMON, "pseudo_masks.threshold", "tune", "none of tuned, otsu"),
        (COMMON, "data.views", "Frontal", "none of frontal, lateral, both"),
        (COMMON, "seed", -1, "config.seed=-1: begins at 0"),
        (COMMON, "trial", -1, "begins at 0"),
        (COMMON, "pseudo_count", 0, "begins at 1"),
        (COMMON, "scores.bootstrap", 0, "begins at 1"),
        (COMMON, "p", 1.5, "config.p=1.5: a probability lies within [0, 1]"),
        (COMMON, "segmentation.steps", 0, "config.segmentation.steps=0: begins at 1"),
        (COMMON, "segmentation.checkpoint_every", 0, "begins at 1"),
        (COMMON, "cams.batch_size", 0, "config.cams.batch_size=0: begins at 1"),
        (COMMON, "data.size", 0, "begins at 32"),
        (COMMON, "data.uncertainty", "bogus", "no such rule"),
        (COMMON, "imagenet.stride_on", "conv3", "none of conv1, conv2"),
        (
            COMMON,
            "segmentation.model",
            "deeplabv3plus_resnet50",
            "another encoder than deeplabv3plus_resnet18",
        ),
        (COMMON, "classifier.epochs", -3.0, "config.classifier.epochs=-3.0: more than 0"),
        (ALL, "data.size", 250, "a multiple of 4"),
        (ALL, "irnet.radius", 20, "config.data.size=128: for IRNet at least 156"),
        (ALL, "irnet.dtype", "bf16", "config.irnet.dtype='bf16' is none of float32, bfloat16"),
        (
            ALL,
            "segmentation.options.dtype",
            "float16",
            "config.segmentation.options.dtype='float16' is none of",
        ),
        (ALL, "trunk.model", "resnet18", "resnet50 is IRNet's trunk"),
        (ALL, "moco.model", "resnet50", "resnet18 is the segmentation's encoder"),
        (ALL, "moco.queue", 0, "config.moco.queue=0: begins at 1"),
        (ALL, "moco.epochs", 0.0, "more than 0"),
    ],
)
def test_what_would_fail_late_or_pass_unnoticed_is_refused(arg, path, value, told):
    config = semi.get_config(arg)
    config.update_from_flattened_dict({path: value})
    with pytest.raises(InputError) as error:
        check(config)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("arg", "told"),
    [
        ("start=imagenet", "start=imagenet has a meaning with init=moco only"),
        ("trunk=imagenet", "with pseudo=irnet only"),
        ("weights=a.pth", "with init=imagenet, start=imagenet or trunk=imagenet only"),
        ("init=random,weights=a.pth", "weights=a.pth has a meaning"),
    ],
)
def test_an_argument_that_would_say_nothing_is_refused(arg, told):
    with pytest.raises(InputError) as error:
        semi.get_config(arg)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [("grid.p", ("a",)), ("grid.p", (1.2,)), ("grid.count", (100.0,)), ("trials", 0), ("weak_count", -5)],
)
def test_a_grid_that_no_run_can_have_is_refused(path, value):
    config = table1.get_config()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({path: value})
    with pytest.raises(InputError, match=f"config.{path}"):
        trials(config)


def test_a_whole_probability_names_the_same_runs():
    config = table1.get_config()
    before = trials(config)
    with config.ignore_type():
        config.grid.p = tuple(int(p) if p in (0, 1) else p for p in config.grid.p)
    assert [repr(trial) for trial in trials(config)] == [repr(trial) for trial in before]


def test_mocos_start_needs_its_section():
    config = moco.get_config()
    config.moco.start = "imagenet"
    with pytest.raises(InputError, match=r"configs/moco.py:start=imagenet"):
        check(config)
