import re
import subprocess
import sys
from pathlib import Path


def test_a_pretraining_killed_in_each_stage_resumes_to_the_same_bytes():
    """The short form of `kill.py`; the long one has every stage."""
    command = [sys.executable, str(Path(__file__).with_name("kill.py")), "--kills", "3", "--runs", "moco"]
    wanted, killed = {"phantom", "moco-tiny", "probe"}, set[str]()
    for _ in range(3):  # on a busy machine a short stage can end before it is seen
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        assert re.search(r"^Resumptions \d+, differences 0, orphans 0\.$", done.stdout, re.M)
        killed |= set(re.findall(r"^\| ([\w-]+) \| [1-9]\d* \|$", done.stdout, re.M))
        if killed >= wanted:
            break
    assert killed >= wanted
