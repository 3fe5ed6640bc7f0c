import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.evaluation.auroc import auroc


def column(values) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_by_hand():
    assert auroc(column([0.1, 0.4, 0.35, 0.8]), column([0, 0, 1, 1]))[0] == pytest.approx(0.75)
    assert auroc(column([1, 2, 3]), column([0, 0, 1]))[0] == 1
    assert auroc(column([5, 5, 5, 5]), column([0, 1, 0, 1]))[0] == 0.5


def test_uncertain_and_blank_labels_are_left_out():
    labels = column([0, 0, 1, 1, -1, np.nan])
    assert auroc(column([0.1, 0.4, 0.35, 0.8, 0.0, 9.0]), labels)[0] == pytest.approx(0.75)


def test_nan_without_positives_or_without_negatives():
    assert np.isnan(auroc(column([1, 2]), column([1, 1]))).all()


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_it_is_the_share_of_pairs_in_the_right_order(rows):
    scores, labels = np.array([s for s, _ in rows], float), np.array([label for _, label in rows])
    if labels.all() or not labels.any():
        return
    gaps = scores[labels][:, None] - scores[~labels][None]
    assert auroc(scores[:, None], labels[:, None].astype(float))[0] == pytest.approx(
        (gaps > 0).mean() + (gaps == 0).mean() / 2
    )
