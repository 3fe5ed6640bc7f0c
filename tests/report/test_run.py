import numpy as np

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation.iou import Counts
from chexseg_jax.report.score_table import score_table


def test_a_task_without_a_test_mask_is_absent_and_not_zero():
    positives = np.full((3, 10), 8)
    positives[:, TASKS.index("Edema")] = 0
    counts = Counts(np.full((3, 10), 4) * (positives > 0), np.full((3, 10), 8), positives)
    lines, scores = score_table({"model": counts, "box": counts}, replicates=20)
    (edema,) = [line for line in lines if line.startswith("| Edema")]
    assert "(absent)" in edema
    assert "0.0" not in edema
    assert any("mean of 9" in line for line in lines)
    assert scores["pooled"]["Edema"] is None
    assert scores["pooled"]["mean"] == scores["pooled"]["Atelectasis"] == 0.5
    assert scores["per_image"]["mean"] == 0.5
    assert scores["positives"]["Edema"] == 0
