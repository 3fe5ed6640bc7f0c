import jax.numpy as jnp
import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.models.normalisation import (
    CHEXPERT,
    XRV,
    Normalisation,
    normalise,
    parse_normalisation,
    with_channels,
)


@pytest.mark.parametrize(
    ("text", "normalisation"),
    [
        ("chexpert", CHEXPERT),
        ("xrv", XRV),
        ("0.5,0.25", Normalisation((0.5,), (0.25,))),
        ("0,.5, 1,1,2,3e-1", Normalisation((0.0, 0.5, 1.0), (1.0, 2.0, 0.3))),
    ],
)
def test_a_normalisation_is_a_name_or_numbers(text, normalisation):
    assert parse_normalisation(text) == normalisation


@pytest.mark.parametrize(
    "text",
    ["", "Imagenet", "0.5", "0.5,", "0.5,0", "0.5,-1", "nan,1", "0.5,inf", "127.5,64", "0,0,1,1", "0.5;0.25"],
)
def test_other_text_is_refused_with_the_choices(text):
    with pytest.raises(
        InputError, match=rf"normalisation '{text}' must be one of imagenet, chexpert, xrv or MEAN,STD"
    ):
        parse_normalisation(text)


def test_torchxrayvisions_inputs_are_in_1024():
    inputs = normalise(jnp.uint8([[[0, 255], [255, 0]]]), XRV)
    assert inputs[0, :, :, 0].tolist() == [[-1024, 1024], [1024, -1024]]


def test_one_channel_is_repeated_and_three_are_averaged():
    assert with_channels(XRV, 3) == Normalisation((0.5,) * 3, (1 / 2048,) * 3)
    assert with_channels(Normalisation((0.25, 0.5, 0.75), (1.0, 2.0, 3.0)), 1) == Normalisation(
        (0.5,), (2.0,)
    )
    assert with_channels(CHEXPERT, 3) == CHEXPERT
