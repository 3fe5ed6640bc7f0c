"""Classifier and MoCo on CheXpert as it is published, without CheXlocalize's files."""

import pytest

from chexseg_jax import experiment
from chexseg_jax.dry_run import describe
from chexseg_jax.errors import InputError
from configs import classifier, moco, semi


@pytest.fixture
def chexpert_alone(download):
    for path in (
        *download.rglob("*.json"),
        *download.rglob("test_labels.csv"),
        *download.rglob("PHANTOM.md"),
    ):
        path.unlink()
    return download


@pytest.mark.parametrize("kind", [classifier, moco])
def test_labels_suffice_for(kind, chexpert_alone, tmp_path, capsys):
    config = kind.get_config(f"root={chexpert_alone},scale=laptop")
    config.data.size = 32
    run = experiment.Run.open(config, tmp_path)
    assert "no test_labels.csv: checkpoints are chosen on valid" in capsys.readouterr().err
    assert run.data.sources.test is run.data.test is None
    assert list(run._judges) == ["valid"]
    assert "To do: " in describe(config, tmp_path, kind.__file__)


def test_a_segmentation_still_needs_masks_and_test_images(chexpert_alone, tmp_path):
    config = semi.get_config(f"p=0.9,root={chexpert_alone},scale=laptop")
    with pytest.raises(InputError, match=r"missing test_labels.csv .*gt_segmentations_val.json"):
        experiment.run(config, tmp_path / "work")
