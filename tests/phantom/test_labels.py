import numpy as np

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.labels import mined_labels, true_labels


def test_true_labels_follow_the_findings_exactly():
    labels = true_labels({"Airspace Opacity", "Edema"}, np.random.default_rng(0))
    assert tuple(labels) == CHEXPERT.labels
    assert {name for name, value in labels.items() if value} <= {"Lung Opacity", "Edema", "Pneumonia"}
    assert labels["Lung Opacity"] == labels["Edema"] == 1


def test_no_finding_permits_devices_alone():
    rng = np.random.default_rng(0)
    assert true_labels(set(), rng)["No Finding"] == 1
    assert true_labels({"Support Devices"}, rng)["No Finding"] == 1
    assert true_labels({"Lung Lesion"}, rng)["No Finding"] == 0


def test_mined_labels_have_about_the_noise_of_chexpert():
    rng = np.random.default_rng(1)
    truth = true_labels({"Airspace Opacity", "Atelectasis"}, rng) | {"Pneumonia": 0.0}
    mined = [mined_labels(truth, rng) for _ in range(2000)]

    def share(name, value):
        return np.mean([labels[name] == value for labels in mined])

    assert 0.2 < share("Atelectasis", -1.0) < 0.32
    assert 0.6 < share("Atelectasis", 1.0) < 0.8
    assert 0.08 < share("Consolidation", -1.0) < 0.14
    assert 0.0 < share("Pneumothorax", 1.0) < 0.02
    assert 0.2 < share("Pneumothorax", 0.0) < 0.3
    assert share("Pneumothorax", None) > 0.6


def test_mined_no_finding_is_never_beside_a_finding():
    rng = np.random.default_rng(2)
    for present in (set(), {"Edema", "Airspace Opacity"}):
        for _ in range(300):
            labels = mined_labels(true_labels(present, rng), rng)
            others = [
                labels[name] for name in CHEXPERT.labels if name not in ("No Finding", "Support Devices")
            ]
            if labels["No Finding"]:
                assert not any(others)
