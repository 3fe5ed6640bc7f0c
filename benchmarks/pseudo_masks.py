"""Score the pseudo-masks of a work directory against the exact masks of the phantom's training images, and draw some.

    python launch.py --config=configs/table1.py --workdir=DIR
    python benchmarks/pseudo_masks.py DIR --picture pseudo_masks.png

A column holds the sets of one labeller, which differ in their images (trials), with a 95 % interval over them by
Student's t; sets with thresholds from fewer expert images, of a label efficiency, are left out. IoU is the mean over
the pseudo-masked images that show a pathology; a missed label counts as a missed mask.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from chexseg_jax.artifact import read_record
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.images import fit_mask
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.bootstrap import t_interval, with_mean
from chexseg_jax.report import figures
from chexseg_jax.report.tables import interval, markdown, number


def main() -> None:
    """Print the table for the work directory named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--picture", type=Path, help="draw an image of each task, with all maps, as PNG")
    arguments = parser.parse_args()
    store = arguments.workdir / "artifacts"
    phantoms = list(store.glob("phantom-*/data/phantom_train_masks.json"))
    if len(phantoms) != 1:
        raise InputError(
            f"{arguments.workdir} holds {len(phantoms)} phantoms; give a work directory with one"
        )
    truth = read_segmentations(phantoms[0])
    folders = [card.parent for card in sorted(store.glob("pseudo-masks-*[0-9a-f]/artifact.json"))]
    keys = {folder: read_record(folder)["key"] for folder in folders}
    experts = Counter(key["expert_rows"] for key in keys.values()).most_common(1)
    groups = defaultdict(list)
    for folder, key in keys.items():
        if key["expert_rows"] == experts[0][0]:
            title = f"{_title(store, key)}, {len(Prepared.load(folder))} masks"
            groups[title].append((key["weak_rows"], folder))
    if not groups:
        raise InputError(f"{arguments.workdir}: no pseudo-masks; launch configs/table1.py there first")
    if arguments.picture and {title.partition(",")[0] for title in groups} < {"CAM", "IRNet"}:
        raise InputError(
            f"{arguments.workdir}: --picture needs pseudo-masks of both CAM and IRNet; drop it, or make both"
        )
    header, columns = ["pathology"], []
    for title, sets in sorted(groups.items()):
        scores = np.array([with_mean(_iou(folder, truth)) for _, folder in sorted(sets)])
        header.append(f"{title} ({len(sets)} sets)")
        columns.append(np.stack(t_interval(scores), -1) if len(sets) > 1 else scores[0][:, None])
    body = [
        [task, *(number(float(c[k, 0])) if c.shape[1] == 1 else interval(*map(float, c[k])) for c in columns)]
        for k, task in enumerate((*CHEXPERT.tasks, "**mean**"))
    ]
    print("\n".join(markdown(header, body)))
    if arguments.picture:
        _draw(arguments.picture, store, groups, truth)


def _title(store: Path, key: dict[str, Any]) -> str:
    """The labeller, with IRNet's trunk."""
    maps = read_record(store / key["weak_maps"])
    if maps["stage"] != "walks":
        return "CAM"
    trunk = read_record(store / maps["key"]["network"])["key"]["trunk"]
    return f"IRNet, trunk from {'ImageNet' if trunk.startswith('imagenet') else 'the labels'}"


def _iou(pseudo: Path, truth: Any) -> np.ndarray:
    """Mean IoU per task with the exact masks, at the training size."""
    masked = Prepared.load(pseudo)
    exact = _exact(masked, truth)
    counts = iou.counts(masked.read_masks(slice(None)), exact)
    each = iou.per_image(counts, true_positives_only=False)
    return iou.mean(np.where(exact.any((1, 2)), each, np.nan), axis=0)


def _exact(masked: Prepared, truth: Any) -> np.ndarray:
    return np.stack([fit_mask(truth.masks(name), masked.size) for name in masked.ids])


def _draw(path: Path, store: Path, groups: dict, truth: Any) -> None:
    """For each task an image that shows it: exact mask, CAM and its mask, boundaries, walked map and its mask."""
    made = {kind: {} for kind in ("CAM", "IRNet")}
    for title, sets in sorted(groups.items(), reverse=True):
        made[title.partition(",")[0]] |= dict(sets)
    rows = min(made["CAM"].keys() & made["IRNet"].keys())  # the same images
    cam, walk = made["CAM"][rows], made["IRNet"][rows]
    masked, walked = Prepared.load(cam), Prepared.load(walk)
    maps, walks = (store / read_record(folder)["key"]["weak_maps"] for folder in (cam, walk))
    exact = _exact(masked, truth)
    cells = [(int(exact[..., k].sum((1, 2)).argmax()), k) for k in range(exact.shape[-1])]
    columns = [
        ("exact mask", [exact[row, ..., k].astype(np.float32) for row, k in cells]),
        ("Grad-CAM", [_scaled(Records.open(maps / "maps")[row][..., k]) for row, k in cells]),
        ("its mask", [masked.read_masks(row)[..., k].astype(np.float32) for row, k in cells]),
        ("boundary", [Records.open(walks / "edges")[row].astype(np.float32) for row, _ in cells]),
        ("walk", [_scaled(Records.open(walks / "maps")[row][..., k]) for row, k in cells]),
    ]
    figures.draw_saliency(
        path,
        [masked.images[row] for row, _ in cells],
        [CHEXPERT.tasks[k] for _, k in cells],
        columns,
        [walked.read_masks(row) & (np.arange(exact.shape[-1]) == k) for row, k in cells],
        taxonomy=CHEXPERT,
        title="Pseudo-masks of the phantom's training images (synthetic)",
    )


def _scaled(saliency: np.ndarray) -> np.ndarray:
    low, high = float(saliency.min()), float(saliency.max())
    return (saliency.astype(np.float32) - low) / max(high - low, 1e-12)


if __name__ == "__main__":
    run_command(main)
