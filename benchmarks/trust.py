"""Whether the checks of an image and the doubt of a prediction tell what they should.

    python benchmarks/trust.py --workdir DIR --photos DIR [--nih DIR] [--out benchmarks/results/trust.md]

`--workdir` is that of a phantom's segmentation run, `--photos` a folder of images that are no radiographs (for
results/trust.md those in the wheels of scikit-image and scikit-learn: astronaut, chelsea, coffee, rocket, ...), `--nih`
a download's tree of real radiographs. Half of the patients of each set make the reference, the other half is judged.
"""

import argparse
from collections import Counter
from datetime import date
from pathlib import Path

import jax
import numpy as np

import chexseg_jax
from chexseg_jax.artifact import read_record
from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.reference import UPRIGHT, fit_reference
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.predict.trust import doubt

SIZE = 128
ENDINGS = (".jpg", ".jpeg", ".png")


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--nih", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trust.md")
    flags = parser.parse_args()
    (root,) = flags.workdir.glob("artifacts/phantom-*/data")
    photos = [read_grey(path) for path in files(flags.photos)]
    lateral = [read_grey(path) for path in files(root) if "lateral" in path.name][:100]
    others = {"not a radiograph": photos, "lateral (phantom's)": lateral, "blank": blanks()}
    frontal = [path for path in files(root) if "frontal" in path.name]
    phantom, judged = halves(frontal)
    cases = [("phantom", "phantom", phantom, judged), ("none", "phantom", UPRIGHT, judged)]
    if flags.nih:
        nih, judged = halves(files(flags.nih))
        cases += [
            (name, "NIH", made, judged)
            for name, made in (("NIH", nih), ("phantom", phantom), ("none", UPRIGHT))
        ]
    rows = [check_row(*case, others) for case in cases]
    header = ["reference", "clean images", "inverted", "rotated", *others, "verdict ok", "verdict right"]
    lines = [
        "# When not to trust a prediction: figures",
        "",
        f"{date.today()}, {jax.default_backend()}, jax {jax.__version__}.",
        "",
        "## Checks: AUROC by kind",
        "",
        *table(header, rows),
    ]
    lines += ["", "## Doubt: Spearman correlation with 1 - IoU, test images of the phantom", ""]
    lines += table(["model", "images", "whole image", "tasks (mean)"], doubt_rows(flags.workdir))
    flags.out.write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


def files(folder):
    """The images below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def halves(paths):
    """The reference of every other patient, and the images of the rest (at most 350)."""
    patients = sorted({path.parts[-3] for path in paths})
    chosen = set(patients[::2])
    images = [read_grey(path) for path in paths if path.parts[-3] in chosen]
    prepared = Prepared(
        tuple(map(str, range(len(images)))),
        np.stack([fit_image(image, SIZE) for image in images]),
        np.zeros((len(images), len(CHEXPERT.labels))),
        np.array([image.shape for image in images]),
        CHEXPERT,
    )
    return fit_reference([prepared]), [read_grey(p) for p in paths if p.parts[-3] not in chosen][:350]


def blanks():
    """Even pictures of many levels, with noise."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 240, 50)
    return [np.clip(rng.normal(v, 4, (160, 160)), 0, 255).astype(np.uint8) for v in levels]


def check_row(name, clean_name, reference, judged, others):
    """AUROC of each kind against the clean images, and the share of right verdicts."""
    changed = {
        "inverted": [255 - image for image in judged],
        "rotated": [np.rot90(image, 1 + n % 3) for n, image in enumerate(judged)],
    }
    clean = [reference.check(image) for image in judged]
    row, right = [name, clean_name], []
    for kind, images in (changed | others).items():
        checks = [reference.check(image) for image in images]
        score = {"inverted": "inverted", "rotated": "rotated", "blank": "blank"}.get(kind, "unlike")
        values = np.array([getattr(check, score) for check in [*clean, *checks]])
        truth = np.arange(len(values)) >= len(clean)
        row.append(f"{auroc(values[:, None], truth[:, None].astype(float))[0]:.3f}")
        right.append(f"{kind} {np.mean([check.verdict == score for check in checks]):.0%}")
    return [*row, f"{np.mean([check.verdict == 'ok' for check in clean]):.1%}", ", ".join(right)]


def doubt_rows(workdir):
    """How well the doubt ranks the errors of some models."""
    (test,) = workdir.glob("artifacts/prepare-test-*")
    images = Prepared.load(test)
    images = images.take(np.flatnonzero(images.listed))
    truth = images.read_masks(slice(None))
    rows = []
    for p, folder in sorted(models(workdir).items()):
        model = chexseg_jax.restore(folder)
        limits = np.array([model.thresholds[task] for task in model.tasks])
        maps = model.predict(list(images.images[:]))
        doubts = [doubt(one, limits) for one in maps]
        masks = maps > limits
        shared, either = ((f(masks, truth)).sum((1, 2)) for f in (np.logical_and, np.logical_or))
        error = 1 - shared / np.maximum(either, 1)
        tasks = np.array([task for task, _ in doubts])
        by_task = [spearman(tasks[:, k], error[:, k]) for k in range(len(limits))]
        whole = spearman(np.array([image for _, image in doubts]), 1 - shared.sum(1) / either.sum(1))
        rows.append([f"p = {p:g}", str(len(doubts)), f"{whole:.2f}", f"{np.nanmean(by_task):.2f}"])
    return rows


def models(workdir):
    """A model for each p, of those that train on the most common expert images: all, in a table's work directory."""
    folders = [card.parent for card in sorted(workdir.glob("artifacts/segmentation-*[0-9a-f]/artifact.json"))]
    keys = {folder: read_record(folder)["key"] for folder in folders}
    ((experts, _),) = Counter(key["train_rows"] for key in keys.values()).most_common(1)
    return {key["p"]: folder for folder, key in keys.items() if key["train_rows"] == experts}


def spearman(x, y):
    """Rank correlation where both exist; nan for fewer than ten."""
    both = ~np.isnan(x) & ~np.isnan(y)
    if both.sum() < 10 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return np.nan
    ranks = [
        np.searchsorted(np.sort(v), v, "left") + np.searchsorted(np.sort(v), v, "right")
        for v in (x[both], y[both])
    ]
    return np.corrcoef(*ranks)[0, 1]


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    main()
