import numpy as np
import pytest
from PIL import Image

from chexseg_jax.errors import InputError
from chexseg_jax.predict.inputs import find_images


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".jpg", ".tif", ".TIFF"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    else:
        path.write_bytes(bytes(128) + b"DICM" if "dicom" in path.name or path.suffix == ".3" else b"text")
    return path


def test_a_folder_gives_its_images_and_counts_the_rest(tmp_path, capsys):
    names = ("a.png", "b.jpg", "c.tif", "d.TIFF", "deep/e.png", "dicom", "1.2.3", "f.dcm")
    litter = (".hidden.png", "._a.png", "__MACOSX/a.png", ".ipynb_checkpoints/a.png", ".git/b.png")
    for name in (*names, *litter, "notes.txt", "more.txt", "deep/x.json", "README"):
        write(tmp_path / name)
    assert set(find_images([tmp_path])) == {"a", "b", "c", "d", "deep_e", "dicom", "1.2.3", "f"}
    told = capsys.readouterr().err
    assert "left out 4 files that are no images: .json 1, .txt 2, without suffix 1" in told


def test_linked_folders_are_followed_and_cycles_end(tmp_path):
    write(tmp_path / "elsewhere/a.png")
    (tmp_path / "in/more").mkdir(parents=True)
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/more/up").symlink_to(tmp_path / "in")
    write(tmp_path / "in/more/b.png")
    assert set(find_images([tmp_path / "in"])) == {"linked_a", "more_b"}


def test_results_are_not_taken_as_images_and_never_written_among_them(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "out/a.png")
    assert set(find_images([tmp_path], tmp_path / "out")) == {"a"}
    with pytest.raises(InputError, match=r"holds the radiograph .*a\.png; give another folder"):
        find_images([tmp_path], tmp_path)
    with pytest.raises(InputError, match="holds the radiograph"):
        find_images([tmp_path / "out/a.png"], tmp_path / "out")


def test_a_table_of_paths(tmp_path):
    """Below the table's folder, with the prefix of a download, absolute, and of files that are missing."""
    write(tmp_path / "cxr/valid/patient1/study2/view1_frontal.jpg")
    write(tmp_path / "cxr/flat.png")
    alone = write(tmp_path / "alone.png")
    rows = ("CheXpert-v1.0-small/valid/patient1/study2/view1_frontal.jpg", "flat.png", str(alone), "none.png")
    table = tmp_path / "cxr/list.csv"
    table.write_text("Name,Path\n" + "".join(f"x,{row}\n" for row in rows))
    found = find_images([table])
    assert set(found) == {"patient1_study2_view1_frontal", "flat", "alone", "none"}
    assert all(file.is_file() for name, file in found.items() if name != "none")


@pytest.mark.parametrize(
    ("text", "told"), [("File\na.png\n", "no column Path"), ("Path,x\n,1\n", "row 2: Path is blank")]
)
def test_a_table_without_paths(text, told, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        find_images([tmp_path / "list.csv"])
