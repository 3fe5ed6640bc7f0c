import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import images, jit, peer

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import Kit
from chexseg_jax.models.resnet import BasicBlock


def features(name, size=64, **options):
    module = peer(name).module.clone(**options)
    return jit(lambda v, x: module.apply(v, x, method="features"))(peer(name).variables, images("x", size, 1))


def test_stages_and_strides():
    out = features("resnet18")
    assert {name: x.shape[1:] for name, x in out.items()} == {
        "relu": (32, 32, 64),
        "maxpool": (16, 16, 64),
        "layer1": (16, 16, 64),
        "layer2": (8, 8, 128),
        "layer3": (4, 4, 256),
        "layer4": (2, 2, 512),
        "features": (2, 2, 512),
    }


@pytest.mark.parametrize("output_stride", [32, 16])
def test_stages_are_the_last_maps_at_each_stride(output_stride):
    module = peer("resnet18").module.clone(output_stride=output_stride)

    @jit
    def both(variables, x):
        return module.apply(variables, x, method="stages"), module.apply(variables, x, method="features")

    maps, features = both(peer("resnet18").variables, images("x", 64, 1))
    names = {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3"} | {output_stride: "layer4"}
    assert maps.keys() == names.keys()
    for stride, name in names.items():
        assert maps[stride].shape[1:3] == (64 // stride, 64 // stride)
        np.testing.assert_array_equal(maps[stride], features[name])


def test_output_stride_16_keeps_the_resolution_and_the_weights():
    out = features("resnet18", output_stride=16)
    assert out["features"].shape == (1, 4, 4, 512)
    np.testing.assert_array_equal(out["layer3"], features("resnet18")["layer3"])
    undilated = features("resnet18", output_stride=16, dilate=False)["features"]
    assert undilated.shape == (1, 4, 4, 512)
    assert not np.allclose(undilated, out["features"])


def test_stride_on_conv1_is_another_network_of_the_same_weights():
    first, second = (features("resnet50", stride_on=where)["features"] for where in ("conv1", "conv2"))
    assert first.shape == second.shape
    assert not np.allclose(first, second)


def test_encoder_has_no_head():
    module = peer("resnet18").module.clone(num_classes=0)
    encoder = {key: value for key, value in peer("resnet18").variables["params"].items() if key != "fc"}
    variables = peer("resnet18").variables | {"params": encoder}
    logits, out = jit(module.apply)(variables, images("x", 64, 1))
    assert logits is None
    assert out["features"].shape == (1, 2, 2, 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"output_stride": 8}, "must be 32 or 16"), ({"stride_on": "x"}, "must be conv1 or conv2")],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        peer("resnet18").module.clone(**options).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_images_of_a_batch_do_not_touch_each_other():
    module, variables = peer("resnet18").module, peer("resnet18").variables
    x = images("x", 96, 2)
    both, _ = jit(module.apply)(variables, x)
    alone, _ = jit(module.apply)(variables, x[1:])
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-3)


def test_bfloat16_computes_narrow_and_answers_wide():
    module = peer("resnet18").module.clone(dtype="bfloat16")
    (logits, out), new = jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(
        peer("resnet18").variables, images("x", 64, 2)
    )
    assert logits.dtype == jnp.float32
    assert out["features"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


def test_remat_computes_the_same():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 4)), jnp.float32)

    def result(remat: bool):
        kit = Kit(remat=remat)
        block = kit.block(BasicBlock)(4, 1, 1, False, kit)
        variables = jit(block.init, static_argnums=2)(jax.random.key(0), x, True)

        def loss(params):
            y, updated = block.apply(variables | {"params": params}, x, True, mutable=["batch_stats"])
            return (y**2).mean(), updated

        return jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result(False), result(True))
