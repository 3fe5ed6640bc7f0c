"""ONNX files in onnxruntime. They need PyTorch, which the suite's environment does not have; CI skips this file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import he_weights

import chexseg_jax
from chexseg_jax import models
from chexseg_jax.errors import InputError
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, XRV, normalise
from chexseg_jax.package.__main__ import main
from chexseg_jax.saved_model import save_model

for library in ("torch", "torchvision", "segmentation_models_pytorch", "onnxscript", "onnxruntime"):
    pytest.importorskip(library, reason=f"needs the extra onnx and onnxruntime (no {library} here)")

SIZE, OUTPUTS = 64, ("a", "b", "c")


def save(folder, name, options, normalisation):
    module = models.create(name, num_classes=3, **options)
    variables = he_weights(module, size=SIZE, channels=len(normalisation.mean))
    # Logits of spread 1: of any network, hundreds would be probabilities of 0 and 1, hundredths probabilities of .5.
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    logits, _ = jax.jit(module.apply)(variables, normalise(jnp.asarray(images), normalisation))
    head = variables["params"][module.head]
    head["kernel"] = head["kernel"] / np.std(np.asarray(logits, np.float32))
    Path(folder).mkdir()
    save_model(
        Path(folder),
        variables,
        name=name,
        num_classes=3,
        options=options,
        size=SIZE,
        tasks=OUTPUTS,
        normalisation=normalisation,
        thresholds=dict.fromkeys(OUTPUTS, 0.5) if "_" in name else {},
    )


@pytest.mark.parametrize(
    ("name", "options", "normalisation"),
    [
        ("deeplabv3plus_resnet18", {"mirror": True}, IMAGENET),
        ("deeplabv3plus_resnet50", {"stride_on": "conv1"}, CHEXPERT),
        ("resnet18", {"dtype": "bfloat16"}, IMAGENET),
        ("resnet50", {"stride_on": "conv1"}, XRV),
        ("densenet121", {}, XRV),
    ],
)
def test_onnxruntime_agrees(name, options, normalisation, tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    save("model", name, options, normalisation)
    main(["model", "shipped", "--to", "onnx"])
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    session = onnxruntime.InferenceSession("shipped/model.onnx")
    (theirs,) = session.run(["probabilities"], {"images": images})
    ours = chexseg_jax.restore("model").predict(images)
    assert theirs.shape == ours.shape
    assert np.ptp(ours) > 0.3
    print(name, options, np.ptp(ours), np.abs(theirs - ours).max())
    assert np.abs(theirs - ours).max() < (2e-2 if "dtype" in options else 1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "deeplabv3plus_densenet121",
            {},
            "neither torchvision nor segmentation-models-pytorch has this network",
        ),
        ("resnet18", {"output_stride": 16}, "its PyTorch peer's probabilities differ by"),
    ],
)
def test_a_network_without_a_peer_is_named(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("model", name, options, IMAGENET)
    with pytest.raises(InputError, match=rf"{message}.*ship it with --to stablehlo"):
        main(["model", "shipped", "--to", "onnx"])
    assert not Path("shipped").exists()
