import errno
import signal
import subprocess
import sys

import pytest

from chexseg_jax.errors import InputError, run_command


def test_an_input_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise InputError("file.csv, row 3:\n   no such label")

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: file.csv, row 3: no such label\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "full", "a.csv"),
            "a.csv: No space left on device; free some space, and rerun the command\n",
        ),
        (OSError(errno.EDQUOT, "full"), "Disk quota exceeded; free some space"),
        (OSError(errno.EROFS, "read-only", "/mnt/a"), "/mnt/a: Read-only file system; allow this user to"),
        (PermissionError(errno.EACCES, "no", "/mnt/a"), "/mnt/a: Permission denied; allow this user to"),
        (OSError("8192 requested and 100 written"), "No space left on device; free"),
        (
            ValueError("tensorstore: No space left on device [os_error_code='28']"),
            "No space left on device; free",
        ),
    ],
    ids=["full", "quota", "read-only", "another user's", "numpy", "orbax"],
)
def test_what_the_file_system_refuses_is_one_line(error, told, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    assert line.startswith(f"error: {told}")


def test_a_socket_that_is_refused_is_no_file():
    with pytest.raises(PermissionError):
        run_command(lambda: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")))


def test_of_errors_that_python_ignores_those_of_reads_that_failed_already_are_not_told(capsys):
    class Ended:
        def __init__(self, message):
            self.message = message

        def __del__(self):
            raise RuntimeError(self.message)

    hook = sys.unraisablehook
    run_command(lambda: [Ended(message) for message in ("Event loop is closed", "another")] and None)
    assert sys.unraisablehook is hook
    told = capsys.readouterr().err
    assert "RuntimeError: another" in told
    assert "Event loop" not in told


def test_a_bug_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_says_how_to_resume_and_no_thread_can_crash_the_end(number):
    """Interpreters that end wait for such a thread."""
    lines = (
        "import os, threading, time",
        "from chexseg_jax.errors import run_command",
        "def main():",
        "    threading.Thread(target=time.sleep, args=[60]).start()",
        f"    os.kill(os.getpid(), {number:d})",
        "    time.sleep(10)",
        "run_command(main)",
    )
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 128 + number
    assert ended.stderr == (
        "interrupted; rerun the command: a run or a prediction resumes, all others start again\n"
    )


def test_an_error_that_quotes_too_much_keeps_its_ends(capsys):
    with pytest.raises(SystemExit):
        run_command(lambda: read(f"file.csv, row 3: {'9' * 5000!r} is no label"))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1300
    assert line.startswith("error: file.csv, row 3: '999")
    assert line.endswith("9' is no label")


def read(message):
    raise InputError(message)
