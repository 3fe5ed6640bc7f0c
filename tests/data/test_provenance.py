import pytest

from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.errors import InputError


def test_one_line_and_the_way_back():
    whole = Provenance(
        "phantom: synthetic images, not patients",
        True,
        "frontal",
        "ignore",
        "Apache-2.0",
        {"test mIoU (pooled)": 0.25, "AUROC": None},
    )
    assert str(whole) == (
        "a model trained on phantom: synthetic images, not patients (frontal views; uncertain labels: ignore; "
        "test mIoU (pooled) 0.250; AUROC absent; licence: Apache-2.0)"
    )
    assert Provenance.of_card({"provenance": whole.to_dict() | {"of a later version": 1}}) == whole
    assert Provenance.of_card({}) == UNKNOWN
    assert str(UNKNOWN) == "a model trained on unknown data"


@pytest.mark.parametrize("entry", [{"data": 3}, {"scores": [1]}, {"scores": {"mIoU": "high"}}])
def test_another_entry_is_named(entry):
    with pytest.raises(InputError, match="its provenance is not a model's"):
        Provenance.of_card({"provenance": entry})
