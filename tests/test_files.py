import shutil
from pathlib import Path

import pytest

from chexseg_jax.data.layout import check_layout
from chexseg_jax.errors import InputError
from chexseg_jax.files import expand_home, give_folder, make_folder, written_aside


def test_the_file_appears_complete(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    with written_aside(path) as file:
        file.write("a\n")
        assert not path.exists()
    assert path.read_text() == "a\n"
    assert [p.name for p in path.parent.iterdir()] == ["scores.csv"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".json")
    with written_aside(path) as file:
        file.write("a\n")
    assert path.read_text() == "a\n"


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


@pytest.mark.parametrize("links", [True, False])
def test_a_given_folder_is_whole_by_itself_and_replaces_an_older_link(tmp_path, links, request):
    source, run = tmp_path / "artifacts" / "model", tmp_path / "runs" / "a"
    (source / "variables" / "d").mkdir(parents=True)
    (source / "variables" / "d" / "1").write_text("weights")
    run.mkdir(parents=True)
    (run / "model").symlink_to("../../artifacts/model")
    if not links:
        request.getfixturevalue("without_links")
    for _ in range(2):
        give_folder(source, run / "model")
    assert [path.name for path in run.iterdir()] == ["model"]
    given = run / "model" / "variables" / "d" / "1"
    assert given.samefile(source / "variables" / "d" / "1") == links
    shutil.rmtree(source)
    assert given.read_text() == "weights"


def test_a_tilde_is_the_home_directory_or_refused(monkeypatch):
    """Containers that run under a user id without a name have none."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expand_home("~/data") == Path("/home/somebody/data")
    assert expand_home("data/~x") == Path("data/~x")

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for read in (expand_home, check_layout):
        with pytest.raises(InputError, match="~/data: ~ is no home directory here; give the whole path"):
            read("~/data")
