import importlib
import os
import re
from pathlib import Path

import pytest

from chexseg_jax import models
from chexseg_jax.config_args import Help
from chexseg_jax.settings import check
from configs import full, moco, semi

CONFIGS = ("semi", "weak", "full", "classifier", "moco")


@pytest.fixture(autouse=True)
def no_root(monkeypatch):
    monkeypatch.delenv("CHEXPERT_ROOT", raising=False)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_every_config_opens_at_both_scales_and_names_real_models(name, scale):
    config = importlib.import_module(f"configs.{name}").get_config(f"scale={scale},seed=3")
    assert (config.scale, config.seed, config.name) == (scale, 3, name)
    for section in ("classifier", "encoder", "trunk"):
        models.create(config[section].model, num_classes=3, **config[section].options)
    models.create(config.encoder.model, num_classes=0, **config.moco.options)
    segmentation = f"{config.segmentation.decoder}_{config.encoder.model}"
    models.create(segmentation, num_classes=3, **config.segmentation.options)
    assert importlib.import_module(f"configs.{name}").__doc__


def test_every_argument_has_a_meaning_and_stands_in_the_documentation():
    with pytest.raises(Help) as text:
        semi.get_config("help")
    rows = [tuple(line.strip().split("  ", 1)) for line in str(text.value).splitlines()]
    page = (Path(__file__).parents[1] / "docs/usage.md").read_text().replace("\\|", "|")
    table = re.findall(
        r"^\| `(.*?)` \| (.*) \|$", page.split("## Arguments")[1].split("\n\n")[2], re.MULTILINE
    )
    assert table == [(key, meaning.strip()) for key, meaning in rows]


@pytest.mark.parametrize("name", [*CONFIGS, "table1", "table2"])
def test_every_config_has_every_section(name):
    sections = semi.get_config("pseudo=irnet,init=moco").keys()
    assert importlib.import_module(f"configs.{name}").get_config().keys() == sections


@pytest.mark.parametrize("name", [*CONFIGS, "table1", "table2"])
def test_smoke_is_as_small_on_a_users_data(name, monkeypatch):
    monkeypatch.setenv("CHEXPERT_ROOT", "/data")
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    check(config)
    assert (config.root, config.scale, config.data.size, config.moco.size) == ("/data", "laptop", 64, 80)


def test_the_papers_settings():
    config = semi.get_config("root=/data")
    assert config.scale == "paper"
    assert (config.data.size, config.data.views, config.classifier.model) == (320, "both", "densenet121")
    for section in (config.classifier, config.encoder):
        assert (section.batch_size, section.epochs, section.learning_rate) == (16, 3.0, 1e-4)
        assert (section.checkpoint_every, section.decay, section.warmup_share) == (4800, False, 0.0)
    assert (config.segmentation.batch_size, config.p, config.init) == (8, 0.9, "chexpert")
    assert (config.data.validation, semi.get_config("").data.validation) == (40, 0.25)


def test_irnets_settings():
    config = semi.get_config("pseudo=irnet,scale=paper")
    assert (config.irnet.learning_rate, config.irnet.displacement_rate) == (0.1, 10)
    assert (config.irnet.batch_size, config.irnet.foreground, config.irnet.background) == (16, 0.3, 0.05)
    assert (config.irnet.radius, config.irnet.count, config.trunk_init) == (10, 20000, "imagenet")


def test_a_root_selects_the_papers_scale_unless_told_otherwise(monkeypatch):

    assert semi.get_config("p=0.5").scale == "laptop"
    assert semi.get_config("root=/data,scale=laptop").scale == "laptop"
    monkeypatch.setitem(os.environ, "CHEXPERT_ROOT", "/data")
    assert (full.get_config("").scale, full.get_config("").root) == ("paper", "/data")
    assert (full.get_config().p, semi.get_config("p=0.25").p) == (1.0, 0.25)


def test_mocos_settings():
    paper = moco.get_config("scale=paper").moco
    assert (paper.queue, paper.key_momentum, paper.temperature) == (65536, 0.999, 0.2)
    assert full.get_config("init=moco,scale=paper").moco == paper
    started = "moco_start=imagenet,weights=FILE"
    assert full.get_config(f"init=moco,{started}").moco == moco.get_config(started).moco
    assert moco.get_config(started).imagenet.weights == "FILE"
    assert moco.get_config(started).moco.learning_rate < moco.get_config().moco.learning_rate
    assert paper.start == "imagenet"


def test_one_argument_chooses_the_encoder_of_segmentation_and_classifier():
    assert semi.get_config("encoder=resnet50").encoder.model == "resnet50"
