import numpy as np

from chexseg_jax.evaluation.iou import Counts
from chexseg_jax.report.score_table import score_table

TASKS = ("Nodule", "Rib Fracture", "Scar")


def test_a_task_without_a_test_mask_is_absent_and_not_zero():
    positives = np.full((3, 3), 8)
    positives[:, 1] = 0
    counts = Counts(np.full((3, 3), 4) * (positives > 0), np.full((3, 3), 8), positives)
    table, scores = score_table({"model": counts, "box": counts}, TASKS, replicates=20)
    assert [row[0] for row in table.rows] == ["Nodule", "Rib Fracture (absent)", "Scar", "**mean of 2**"]
    assert table.rows[1][1:] == ("0", "-", "-", "-")
    assert scores["pooled"]["Rib Fracture"] is None
    assert scores["pooled"]["mean"] == scores["pooled"]["Nodule"] == 0.5
    assert scores["pooled_95"]["Scar"] == [0.5, 0.5]
    assert scores["per_image"]["mean"] == 0.5
    assert scores["positives"]["Rib Fracture"] == 0


def test_an_unknown_mask_has_no_weight():
    positives = np.full((2, 3), 8)
    known = np.array([[True] * 3, [True, False, True]])
    counts = Counts(np.array([[8] * 3, [0] * 3]), np.full((2, 3), 16), positives).where(known)
    table, scores = score_table({"model": counts}, TASKS, replicates=20)
    assert [row[1] for row in table.rows] == ["2", "1", "2", ""]
    assert (scores["pooled"]["Nodule"], scores["pooled"]["Rib Fracture"]) == (0.25, 0.5)
