"""What a flag may set."""

import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.settings import check, trials
from configs import classifier, full, moco, semi, table1, table2, weak


@pytest.mark.parametrize("file", [classifier, full, moco, semi, table1, table2, weak])
def test_what_the_configs_give_is_let_through(file):
    check(file.get_config())


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("init", "imagnet", "config.init='imagnet' is none of random, imagenet, moco, chexpert"),
        ("pseudo", "irnett", "none of cam, irnet"),
        ("pseudo", "irnet", "behind the colon, configs/semi.py:pseudo=irnet"),
        ("init", "moco", "behind the colon, configs/semi.py:init=moco"),
        ("pseudo_masks.threshold", "tune", "none of tuned, otsu"),
        ("data.views", "Frontal", "none of frontal, lateral, both"),
        ("seed", -1, "config.seed=-1: begins at 0"),
        ("trial", -1, "begins at 0"),
        ("pseudo_count", 0, "begins at 1"),
        ("scores.bootstrap", 0, "begins at 1"),
        ("p", 1.5, "config.p=1.5: a probability lies within [0, 1]"),
        ("segmentation.steps", 0, "config.segmentation.steps=0: begins at 1"),
        ("segmentation.checkpoint_every", 0, "begins at 1"),
        ("cams.batch_size", 0, "config.cams.batch_size=0: begins at 1"),
        ("data.size", 0, "begins at 32"),
        ("data.uncertainty", "bogus", "no such rule"),
        ("imagenet.stride_on", "conv3", "none of conv1, conv2"),
        ("segmentation.model", "deeplabv3plus_resnet50", "another encoder than deeplabv3plus_resnet18"),
        ("classifier.epochs", -3.0, "config.classifier.epochs=-3.0: more than 0"),
    ],
)
def test_what_no_stage_would_notice_in_time_is_refused(path, value, told):
    config = semi.get_config("p=0.9")
    config.update_from_flattened_dict({path: value})
    with pytest.raises(InputError) as error:
        check(config)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("data.size", 250, "a multiple of 4"),
        ("irnet.radius", 20, "config.data.size=128: for IRNet at least 156"),
        ("irnet.dtype", "bf16", "config.irnet.dtype='bf16' is none of float32, bfloat16"),
        ("segmentation.options.dtype", "float16", "config.segmentation.options.dtype='float16' is none of"),
        ("trunk.model", "resnet18", "resnet50 is IRNet's trunk"),
        ("moco.model", "resnet50", "resnet18 is the segmentation's encoder"),
        ("moco.queue", 0, "config.moco.queue=0: begins at 1"),
        ("moco.epochs", 0.0, "more than 0"),
    ],
)
def test_what_fails_only_after_hours_is_refused(path, value, told):
    config = semi.get_config("p=0.9,pseudo=irnet,init=moco")
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
