import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.files import make_folder, written_aside


def test_the_file_appears_complete(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    with written_aside(path) as file:
        file.write("a\n")
        assert not path.exists()
    assert path.read_text() == "a\n"
    assert [p.name for p in path.parent.iterdir()] == ["scores.csv"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        half_written(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def half_written(path):
    with written_aside(path) as file:
        file.write("half of the new")
        raise RuntimeError


def test_a_folder_is_made_with_its_parents_and_a_file_is_refused(tmp_path):
    make_folder(tmp_path / "a" / "b", "--out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out=.*/file: is a file; give a folder"):
        make_folder(tmp_path / "file", "--out")
    with pytest.raises(InputError, match=r"--out=.*/file/b: .*; give a writable folder"):
        make_folder(tmp_path / "file" / "b", "--out")
