import json

from chexseg_jax.training.metrics_log import MetricsLog, read_metrics


def test_lines_and_truncation(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1 / step})
    log.truncate(20)
    log.write(30, {"loss": 7})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (10, 0.1),
        (20, 0.05),
        (30, 7),
    ]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_of_several_processes_one_writes(tmp_path):
    log = MetricsLog(tmp_path, writes=False)
    log.write(10, {"loss": 1.0})
    log.truncate(5)
    log.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
