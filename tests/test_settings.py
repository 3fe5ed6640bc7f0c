"""The values that flags may set."""

import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.settings import check, imagenet_networks, trainings, trials
from configs import classifier, full, label_efficiency, moco, semi, table1, table2, weak


@pytest.mark.parametrize("file", [classifier, full, label_efficiency, moco, semi, table1, table2, weak])
@pytest.mark.parametrize("arg", ["", "smoke", "scale=paper"])
def test_the_configs_values_pass(file, arg):
    check(file.get_config(arg))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("init", "imagnet", "config.init='imagnet' must be one of random, imagenet, moco, chexpert"),
        ("pseudo", "irnett", "config.pseudo='irnett' must be one of cam, irnet"),
        ("data.views", "Frontal", "must be one of frontal, lateral, both"),
        ("seed", -1, "config.seed=-1 must be at least 0"),
        ("trial", -1, "at least 0"),
        ("weak_count", -5, "at least 0"),
        ("pseudo_count", 0, "config.pseudo_count=0 must be at least 1"),
        ("scores.bootstrap", 0, "at least 1"),
        ("p", 1.5, "config.p=1.5 must be a probability in [0, 1]"),
        ("segmentation.steps", -1, "config.segmentation.steps=-1 must be at least 0"),
        ("segmentation.checkpoint_every", 0, "at least 1"),
        ("cams.batch_size", 0, "config.cams.batch_size=0 must be at least 1"),
        ("data.size", 0, "at least 32"),
        ("data.validation", 0.0, "config.data.validation=0.0 must be a share in (0, 1) or a whole number"),
        ("data.validation", 40.5, "must be a share in (0, 1) or a whole number"),
        ("data.uncertainty", "bogus", "uncertain labels must be zeros, ones or ignore"),
        ("pseudo_masks.degenerate", "drop", "must be one of keep, unknown"),
        ("imagenet.stride_on", "conv3", "must be one of conv1, conv2"),
        ("classifier.epochs", -3.0, "config.classifier.epochs=-3.0 must be more than 0"),
        ("data.size", 250, "a multiple of 4 for IRNet"),
        ("irnet.radius", 20, "config.data.size=128 must be at least 156 for config.irnet.radius"),
        ("irnet.dtype", "bf16", "config.irnet.dtype='bf16' must be one of float32, bfloat16"),
        (
            "segmentation.options.dtype",
            "float16",
            "config.segmentation.options.dtype='float16' must be one of",
        ),
        ("trunk.model", "resnet18", "config.trunk.model='resnet18' must be one of resnet50"),
        ("moco.queue", 0, "config.moco.queue=0 must be at least 1"),
        ("moco.epochs", 0.0, "more than 0"),
        ("segmentation.epochs", float("inf"), "more than 0 and finite"),
        ("segmentation.decoder", "unet", "unknown model 'unet_resnet18'"),
        ("encoder.model", "vgg16", "unknown model 'vgg16'"),
        ("irnet.radius", 1, "config.irnet.radius=1 must be at least 2"),
        ("walk.radius", 1, "config.walk.radius=1 must be at least 2"),
        ("walk.beta", 0.0, "config.walk.beta=0.0 must be more than 0"),
        ("walk.exp_times", -1, "config.walk.exp_times=-1 must be at least 0"),
        ("moco.crop", 1.5, "config.moco.crop=1.5 must be a share in (0, 1]"),
        ("moco.key_momentum", 1.0, "config.moco.key_momentum=1.0 must be in [0, 1)"),
        ("moco.temperature", 0.0, "config.moco.temperature=0.0 must be more than 0"),
        ("moco.size", 16, "config.moco.size=16 must be at least 32"),
        ("moco.norm_group", 0, "config.moco.norm_group=0 must be at least 1"),
        ("moco.batch_size", 24, "config.moco.queue=256 must be a multiple of config.moco.batch_size=24"),
        ("classifier.learning_rate", 0.0, "config.classifier.learning_rate=0.0 must be more than 0"),
        ("segmentation.learning_rate", -1.0, "must be 0, for the published rule, or more"),
        ("p", 1.0, "config.p=1 with config.pseudo='irnet': give p to the configuration instead"),
    ],
)
def test_a_value_that_would_fail_late_or_be_ignored_is_refused(path, value, message):
    config = semi.get_config("p=0.9,pseudo=irnet")
    config.update_from_flattened_dict({path: value})
    with pytest.raises(InputError) as error:
        check(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    {"p": 0.5, "init": "moco", "pseudo": "irnet", "pseudo_count": 500, "trial": 2, "experts": 10}.items(),
)
def test_a_setting_of_single_runs_is_refused_for_a_table(key, value):
    for file in (table1, table2, label_efficiency):
        config = file.get_config()
        config[key] = value
        with pytest.raises(InputError, match=f"config.{key}={value!r}: a table's runs take their own"):
            check(config)


@pytest.mark.parametrize(
    ("key", "value"),
    {"trials": 5, "weak_count": 100, "shard": "1/4", "grid.p": (0.5,), "kind": "semi"}.items(),
)
def test_a_setting_of_tables_is_refused_for_a_single_run(key, value):
    for file in (classifier, full, moco, semi):
        config = file.get_config("smoke")
        config.update_from_flattened_dict({key: value})
        with pytest.raises(
            InputError, match=r"applies to tables alone|must be one of segmentation, classifier"
        ):
            check(config)


@pytest.mark.parametrize("file", [classifier, full, moco, semi, table1, table2, label_efficiency])
def test_a_locked_config_as_a_command_has_it_is_accepted(file):
    check(file.get_config("smoke").lock())


def test_a_mixture_needs_pseudo_masks():
    config = full.get_config()
    config.p = 0.5
    with pytest.raises(InputError, match=r"config.p=0.5 with config.pseudo=''"):
        check(config)
    config = full.get_config()
    config.clock = "steps"
    with pytest.raises(InputError, match=r"needs the mixture's config.pseudo_count"):
        check(config)


def test_the_networks_that_are_trained():
    assert trainings(full.get_config()) == ["encoder", "segmentation"]
    assert trainings(semi.get_config("init=random")) == ["classifier", "segmentation"]
    assert trainings(semi.get_config("init=moco,classifier=a")) == ["moco", "segmentation"]
    assert trainings(semi.get_config("pseudo=irnet")) == [
        *("classifier", "encoder", "trunk", "irnet", "segmentation")
    ]
    assert trainings(table2.get_config("scale=paper")) == [
        *("classifier", "encoder", "moco", "irnet", "segmentation")
    ]
    assert trainings(moco.get_config()) == ["moco"]


def test_an_imported_network_that_nothing_uses_is_refused():
    with pytest.raises(InputError, match="classifier=a: no pseudo-masks are made"):
        check(semi.get_config("p=1,classifier=a"))
    config = semi.get_config("init=random")
    config.imported.encoder = "a"
    with pytest.raises(InputError, match="belong together: give encoder_from=PATH"):
        check(config)
    config = semi.get_config("classifier=a,encoder_from=b,scale=paper")
    check(config)
    assert (config.init, imagenet_networks(config)) == ("imported", {})
    assert trials(table1.get_config("encoder_from=b"))[0].setting.init == "imported"


@pytest.mark.parametrize("text", ["tune", "1.0", "-0.1", ""])
def test_a_wrong_threshold_is_refused(text):
    with pytest.raises(InputError, match="must be labeller, tuned, otsu or a number"):
        LABELLERS["cam"].parse_threshold(text)


def test_thresholds():
    parse = LABELLERS["cam"].parse_threshold
    assert [parse(text) for text in ("labeller", "tuned", "otsu", "0.3")] == ["tuned", "tuned", "otsu", 0.3]


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("moco_start=imagenet", "moco_start=imagenet applies only with init=moco"),
        ("init=random,encoder_start=imagenet", "applies only with init=chexpert"),
        ("p=1,classifier_start=imagenet", "classifier_start=imagenet applies only with p below 1"),
        ("trunk=imagenet", "applies only with pseudo=irnet"),
        ("walk=pascal", "applies only with pseudo=irnet"),
        ("weights=a.pth", "weights=a.pth applies only to what starts from ImageNet"),
        ("init=random,weights=a.pth", "weights=a.pth applies only"),
        ("classifier=a,classifier_start=random", "an imported classifier is not trained"),
        ("encoder_from=a,encoder_start=imagenet", "applies only with init=chexpert"),
        ("encoder_from=a,init=moco", "encoder_from=a takes the place of init"),
        ("encoder_from=a,encoder=resnet50", "encoder=resnet50: the network is that of encoder_from=a"),
    ],
)
def test_an_argument_without_effect_is_refused(arg, message):
    with pytest.raises(InputError) as error:
        semi.get_config(arg)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("moco_start=imagenet", "moco_start=imagenet applies only with init=moco"),
        ("weights=a.pth", "weights=a.pth applies only to what starts from ImageNet"),
    ],
)
def test_an_argument_without_effect_on_a_table_is_refused(arg, message):
    with pytest.raises(InputError) as error:
        table1.get_config(arg)
    assert message in str(error.value)
    table2.get_config(arg)


@pytest.mark.parametrize(
    ("path", "value"),
    [("grid.p", ("a",)), ("grid.p", (1.2,)), ("grid.count", (100.0,)), ("trials", 0)],
)
def test_a_grid_with_wrong_values_is_refused(path, value):
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
