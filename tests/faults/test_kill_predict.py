import re
import subprocess
import sys
from pathlib import Path


def test_a_killed_prediction_continues_to_the_same_bytes():
    """The short form of `kill_predict.py`."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("kill_predict.py")),
        "--kills",
        "2",
        "--images",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^Kills 2, .* differences 0\.$", done.stdout, re.M)
