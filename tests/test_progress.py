from chexseg_jax import progress


def test_a_log_line_has_title_count_time_left_and_note(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))  # six seconds a tick
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("training", 10) as advance:
        for step in range(1, 11):
            advance(step, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert "training: 2/10" in lines[0]
    assert "48 s left" in lines[0]
    assert "loss 2" in lines[0]
    assert "training: 10/10, 0 s left" in lines[-1]


def test_track_yields_everything(capsys):
    assert list(progress.track("abc", "letters", 3)) == ["a", "b", "c"]
    assert "letters: 3/3" in capsys.readouterr().err


def test_a_muted_process_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_muted", False)
    progress.mute()
    progress.say("hello")
    assert list(progress.track("abc", "letters", 3)) == ["a", "b", "c"]
    assert not capsys.readouterr().err
