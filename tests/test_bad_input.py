"""Wrong files below a root: one line each, and nothing half-written; a few unreadable images are left out."""

import json

import pytest

from chexseg_jax import experiment
from chexseg_jax.artifact import Store
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.errors import InputError
from chexseg_jax.sources import open_sources
from chexseg_jax.stages.prepare import prepare


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("root", "no such folder"),
        ("column", "train.csv: no column Edema"),
        ("image", r"more than 1.0% of the .* train images cannot be read .*view1_frontal.jpg"),
        ("truncated", r"more than 1.0% of the .* train images cannot be read"),
        ("size", r"masks of patient\w+ have height x width .* 7 x 5"),
        ("pathology", "unknown task 'Lung Lesions'"),
        ("rle", "gt_segmentations_test.json"),
        ("escape", "leaves the root"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_half_written(damage, told, download, tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.root = str(download)
    train = download / "train.csv"
    masks = download / "gt_segmentations_test.json"
    first = next(iter((download / "CheXpert-v1.0-small" / "train").glob("*/*/*_frontal.jpg")))
    match damage:
        case "root":
            config.root = str(tmp_path / "nowhere")
        case "column":
            train.write_text(train.read_text().replace(",Edema,", ",Oedema,"))
        case "image":
            first.unlink()
        case "truncated":
            first.write_bytes(first.read_bytes()[:200])
        case "size" | "pathology" | "rle":
            entries = json.loads(masks.read_text())
            entry = next(iter(entries.values()))
            if damage == "size":
                for code in entry.values():
                    code.update(size=[7, 5], counts="S1")
            elif damage == "pathology":
                entry["Lung Lesions"] = entry.pop("Lung Lesion")
            else:
                entry["Edema"]["counts"] = "not a code"
            masks.write_text(json.dumps(entries))
        case "escape":
            train.write_text(train.read_text().replace("CheXpert-v1.0-small/train", "../elsewhere/train"))
    with pytest.raises(InputError, match=told) as error:
        experiment.run(config, tmp_path / "work")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "work").glob("runs/*"))
    finished = [path for path in (tmp_path / "work").glob("artifacts/[!.]*") if path.suffix != ".part"]
    assert all((path / "artifact.json").exists() for path in finished)


def test_a_few_unreadable_training_images_are_counted_named_and_left_out(
    download, tiny_config, tmp_path, capsys
):
    config = tiny_config.copy_and_resolve_references()
    config.root = str(download)
    config.data.max_missing = 0.5
    gone = next(iter((download / "CheXpert-v1.0-small" / "train").glob("*/*/*_frontal.jpg")))
    gone.unlink()
    store = Store(tmp_path)
    made = store.make("prepare", prepare, config=config.data, split=open_sources(store, config).train)
    (left_out,) = json.loads((made / "left_out.json").read_text()).items()
    assert str(gone) in left_out[1]
    assert left_out[0] not in Prepared.load(made).ids
    assert "1 of " in capsys.readouterr().err
