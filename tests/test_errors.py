import pytest

from chexseg_jax.errors import InputError, run_command


def test_an_input_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise InputError("file.csv, row 3:\n   no such label")

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: file.csv, row 3: no such label\n"


def test_a_bug_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


def test_an_interrupt_says_how_to_resume(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 130
    assert "rerun the command to resume" in capsys.readouterr().err


def test_an_error_that_quotes_too_much_keeps_its_ends(capsys):
    with pytest.raises(SystemExit):
        run_command(lambda: read(f"file.csv, row 3: {'9' * 5000!r} is no label"))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1300
    assert line.startswith("error: file.csv, row 3: '999")
    assert line.endswith("9' is no label")


def read(message):
    raise InputError(message)
