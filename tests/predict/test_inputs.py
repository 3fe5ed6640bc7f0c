import numpy as np
import pytest
from PIL import Image

from chexseg_jax.data import layout
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
    (tmp_path / "out/.predict").mkdir()
    assert set(find_images([tmp_path], tmp_path / "other")) == {"a"}  # results of an earlier call
    assert set(find_images([tmp_path / "out"], tmp_path / "other")) == {"a"}  # which were named themselves
    with pytest.raises(InputError, match=r"holds the radiograph .*a\.png; give another folder"):
        find_images([tmp_path], tmp_path)
    with pytest.raises(InputError, match="holds the radiograph"):
        find_images([tmp_path / "out/a.png"], tmp_path / "out")


@pytest.mark.parametrize(("given", "out"), [("data", "data"), ("data", "real"), ("real", "data")])
def test_results_are_not_written_among_radiographs_through_a_link(given, out, tmp_path):
    write(tmp_path / "real/a.png")
    (tmp_path / "data").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match=r"holds the radiograph .*a\.png; give another folder"):
        find_images([tmp_path / given], tmp_path / out)


def test_the_whole_path_below_a_folder_gives_the_id(tmp_path):
    """A PACS exports patient/study/series/image, and numbers all but the patient from 0."""
    for patient in ("PA1", "PA2"):
        write(tmp_path / patient / "ST0/SE0/IM0.dcm")
        write(tmp_path / patient / "patient1/study1/view1_frontal.jpg")
    assert set(find_images([tmp_path / "PA1"])) == {"ST0_SE0_IM0", "patient1_study1_view1_frontal"}
    (tmp_path / "PA2/patient1/study1/view1_frontal.jpg").unlink()
    assert set(find_images([tmp_path])) == {
        *("PA1_ST0_SE0_IM0", "PA2_ST0_SE0_IM0"),
        "patient1_study1_view1_frontal",
    }


def test_a_file_given_twice_is_taken_once(tmp_path, capsys):
    image = write(tmp_path / "in/deep/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for given in ([image, image], [image, tmp_path / "link/deep/a.png"], [image, tmp_path / "in"]):
        assert find_images(given) == {"a": image}
        assert "1 images are given twice and taken once" in capsys.readouterr().err


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


def test_spaces_around_a_tables_header_do_not_count(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("No, Path \n1, a.png\n")
    assert find_images([table]) == {"a": tmp_path / "a.png"}


def test_absolute_paths_of_a_table_count_below_their_common_parent(tmp_path):
    files = [write(tmp_path / "data" / name / "frontal.png") for name in ("p1", "p2")]
    table = tmp_path / "list.csv"
    table.write_text(f"Path\n{files[0]}\n{tmp_path}/x/../data/p2/frontal.png\n")
    found = find_images([table])
    assert [found[name].resolve() for name in ("p1_frontal", "p2_frontal")] == files
    table.write_text(f"Path\n{files[0]}\n")
    assert find_images([table]) == {"frontal": files[0]}


def test_rows_of_a_table_share_a_search(tmp_path, monkeypatch):
    """A flat folder was listed twice for each row."""
    globs = []
    monkeypatch.setattr(layout, "_batches", lambda root: globs.append(root) or [])
    (tmp_path / "list.csv").write_text("Path\n" + "".join(f"{number}.png\n" for number in range(50)))
    assert len(find_images([tmp_path / "list.csv"])) == 50
    assert len(globs) == 1


def test_a_table_of_all_batches(tmp_path):
    """Each patient is in one of them."""
    for batch, patient in (("2 (train 1)", "patient00001"), ("3 (train 2)", "patient00002")):
        write(tmp_path / f"CheXpert-v1.0 batch {batch}" / patient / "study1/view1_frontal.jpg")
    rows = [f"CheXpert-v1.0/train/patient0000{k}/study1/view1_frontal.jpg" for k in (1, 2)]
    (tmp_path / "train.csv").write_text("\n".join(("Path", *rows)))
    assert all(file.is_file() for file in find_images([tmp_path / "train.csv"]).values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("File,No\na.png,1\n", "no column Path, which names the images; it has File, No"),
        ("\nPath;No\na.png;1\n", "its cells are separated by semicolons; save it with commas"),
        ("Path,x\n,1\n", "line 2: Path is blank"),
        ("x,Path\n1\n", "line 2: Path is blank"),
        ("Path,x\n\n", "lists no image below its header"),
        ('Path\na.png\n"b.png\nc.png\n', r"line 4: not a CSV table \(unexpected end of data\)"),
        ('Path\n"b.png\n' + "c.png\n" * 30000, "not a CSV table .*field larger than field limit"),
    ],
)
def test_a_table_without_paths(text, told, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        find_images([tmp_path / "list.csv"])
