import pytest
from faults import fuzz


@pytest.mark.filterwarnings("ignore")  # config_flags' own, and Pillow's on damaged files
@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_input_is_read_or_refused_in_one_line(name):
    counts, crashes = fuzz.run(name, 40 if name == "settings" or fuzz.READERS[name].slow else 150, seed=1)
    assert not crashes, "\n".join(crashes)
    assert counts["refusals"] > 0
