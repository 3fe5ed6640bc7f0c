"""Stage: a run's folder with what a person looks at: report, overlays, curves, predictions, the model."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.artifact import config_digest, plain, versions
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.images import fit_mask, unpack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.files import aside_of, written_aside
from chexseg_jax.progress import say
from chexseg_jax.report import figures
from chexseg_jax.report.score_table import score_table
from chexseg_jax.report.tables import markdown, number
from chexseg_jax.saliency.gradcam import normalise
from chexseg_jax.sources import Sources
from chexseg_jax.stages.pseudo_masks import positive_tasks
from chexseg_jax.stages.scores import load_counts
from chexseg_jax.training.loggers import read_metrics
from chexseg_jax.training.profiling import performance

_SHOWN_IMAGES = 6
_SHOWN_PSEUDO = 6
PHANTOM_NOTE = (
    "**These are results on the phantom: synthetic images drawn by this package. They say whether the method "
    "works as built, and nothing about patients.**"
)

_SALIENCY_SECTION = (
    "## From saliency to pseudo-masks",
    "",
    "Training images, one of the pathologies that each is labelled with: the maps, scaled to [0, 1], and the mask.",
    "",
    "![saliency and pseudo-masks](saliency.png)",
    "",
)


@dataclass(frozen=True)
class Made:
    """The artifacts of a segmentation's chain.

    Attributes:
      classifiers: artifacts of trained classifiers and encoders, each with that of what it scores.
      trainings: of all trainings, `classifiers` and `model` among them.
      saliency: the maps that the pseudo-masks came from, from first to last: Grad-CAMs, IRNet's walks.
      pseudo: of `make_pseudo_masks`; None for p = 1.
      refreshed: of `refresh_pseudo_masks`, from first to last.
      model: of `train_segmentation`.
      scores: of `score_segmentation`.
    """

    classifiers: Mapping[Path, Path]
    trainings: Sequence[Path]
    saliency: Sequence[Path]
    pseudo: Path | None
    refreshed: Sequence[Path]
    model: Path
    scores: Path


def write_report(workdir: Path, config: ConfigDict, sources: Sources, *, test: Path, made: Made) -> Path:
    """Writes a segmentation run's folder below `workdir/runs`.

    It holds `report.md`, `scores.json`, `overlays.png`, `saliency.png` (for p < 1), `curves.png`, `metrics.jsonl`,
    `predictions.json` (CheXlocalize's format), `config.json`, and `model`, a link that `chexseg_jax.restore` follows.

    Args:
      workdir: the work directory.
      config: of the run.
      sources: what it was run on.
      test: artifact of `prepare`.
      made: all others.

    Returns:
      The folder.
    """
    run = open_run(workdir, config)
    counts = load_counts(made.scores)
    table, test_scores = score_table(counts, replicates=config.scores.bootstrap)
    stages = dict.fromkeys((*made.classifiers, made.pseudo, *made.refreshed, *made.trainings, made.scores))
    card = json.loads((made.model / "model.json").read_text())
    lines = [
        *_heading(config, sources, f"mixture p = {config.p:g}, init = {config.init}"),
        "## Test IoU",
        "",
        f"{len(counts['model'].positives)} test images at full size. *pooled*: sum of intersections over sum of "
        "unions (CheXseg); *per image*: mean over images that both the radiologist and the model marked "
        "(CheXlocalize). In brackets 95 % intervals, bootstrap over images. *box*: a centred box of the task's "
        "mean size in the expert training images, on every image. A task without a positive test mask has no "
        "IoU: it is absent, and left out of the mean.",
        "",
        *((sources.reader_note, "") if sources.reader_note else ()),
        *table,
        "",
        "![radiograph, ground truth and prediction](overlays.png)",
        "",
        *(_SALIENCY_SECTION if made.pseudo else ()),
        *_threshold_section(config, card["thresholds"], made.pseudo),
        *_classifier_section(made.classifiers),
        *_training_section(made.trainings),
        *_provenance(config, sources, [path for path in stages if path]),
    ]
    _write(run / "report.md", "\n".join(lines) + "\n")
    data = image_title(sources)
    _write(run / "scores.json", json.dumps({"data": data, **test_scores}, indent=1))
    _copy(made.scores / "predictions.json", run)
    _copy(made.model / "metrics.jsonl", run)
    _link(run / "model", made.model)
    figures.draw_curves(
        run / "curves.png",
        {path.name: read_metrics(path / "metrics.jsonl") for path in (*made.classifiers, made.model)},
    )
    if made.pseudo:
        _saliency(run / "saliency.png", sources, made.saliency, made.pseudo, config.data.uncertainty)
    _overlays(run / "overlays.png", sources, Prepared.load(test), made)
    say(f"report: {run / 'report.md'}")
    say(f"test mIoU (pooled) {test_scores['pooled']['mean']:.3f} ({data})")
    return run


def write_classifier_report(
    workdir: Path, config: ConfigDict, sources: Sources, classifier: Path, auroc: Path
) -> Path:
    """Writes a classifier run's folder: `report.md`, `curves.png`, `metrics.jsonl` and `model`."""
    run = open_run(workdir, config)
    lines = [
        *_heading(config, sources, f"classifier {config.classifier.model}"),
        *_classifier_section({classifier: auroc}),
        *_training_section([classifier]),
        *_provenance(config, sources, [classifier]),
    ]
    _write(run / "report.md", "\n".join(lines) + "\n")
    _copy(classifier / "metrics.jsonl", run)
    _link(run / "model", classifier)
    figures.draw_curves(run / "curves.png", {classifier.name: read_metrics(classifier / "metrics.jsonl")})
    say(f"report: {run / 'report.md'}")
    return run


def write_moco_report(
    workdir: Path, config: ConfigDict, sources: Sources, encoder: Path, probes: Mapping[str, Path]
) -> Path:
    """Writes a MoCo run's folder: `report.md`, `curves.png`, `metrics.jsonl` and `model`.

    Args:
      workdir, config, sources: see `write_report`.
      encoder: artifact of `pretrain_moco`.
      probes: title -> artifact of `probe_encoder`; that encoder's, and what it stands beside.
    """
    run = open_run(workdir, config)
    metrics = read_metrics(encoder / "metrics.jsonl")
    steps = [line for line in metrics if "top1" in line]
    last = steps[-max(1, len(steps) // 5) :]
    loss, top1 = (np.mean([line[key] for line in last]) for key in ("loss", "top1"))
    table, means = _auroc_table(probes)
    lines = [
        *_heading(config, sources, f"MoCo v2, {config.moco.model}"),
        f"InfoNCE ended at {loss:.3f}; chance, with {config.moco.queue} keys in the queue, is "
        f"{math.log(config.moco.queue + 1):.3f}. {top1:.0%} of the queries were nearest to their own key. (Means of "
        f"the last batches logged: {len(last)}.)",
        "",
        "## Linear probe",
        "",
        "AUROC of logistic regressions on the frozen encoder's mean features, trained on the weak labels. The "
        "penalty is the best on the valid images, so test is the column to read.",
        "",
        *table,
        "",
        *_training_section([encoder]),
        *_provenance(config, sources, [encoder]),
    ]
    _write(run / "report.md", "\n".join(lines) + "\n")
    _write(run / "probe.json", json.dumps(means, indent=1))
    _copy(encoder / "metrics.jsonl", run)
    _link(run / "model", encoder)
    figures.draw_curves(run / "curves.png", {encoder.name: metrics})
    say(f"report: {run / 'report.md'}")
    probed = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    say(f"linear probe, mean AUROC: {probed} ({image_title(sources)})")
    return run


def _heading(config: ConfigDict, sources: Sources, what: str) -> list[str]:
    title = f"# {config.name}: {what}, seed {config.seed}, {config.scale} scale"
    return [title, "", PHANTOM_NOTE if sources.is_phantom else f"Data: `{sources.root}`.", ""]


def _threshold_section(config: ConfigDict, thresholds: dict[str, float], pseudo: Path | None) -> list[str]:
    header, columns = ["pathology", "probability"], [thresholds]
    text = "Of the segmentation's probability, the best pooled IoU on the expert training images."
    if pseudo:
        cam, quality = (
            json.loads((pseudo / f"{name}.json").read_text()) for name in ("thresholds", "quality")
        )
        what = "IRNet's walk" if config.pseudo == "irnet" else "Grad-CAM"
        header += [what, f"IoU of thresholded {what}", "IoU of a centred box of equal area"]
        columns += [cam or {}, quality["cam"], quality["box"]]
        rule = (
            "the best mean IoU on the expert training images that show the pathology; beside it that IoU (on the "
            "images it was tuned on)"
            if cam
            else "each map's own, by Otsu's rule; beside it the mean IoU on the expert training images that show the "
            "pathology"
        )
        text += f" Of the normalised {what}, {rule}, and that of a centred box as large as each mask made."
    body = [
        [task, *(number(column.get(task), 2 + (i > 1)) for i, column in enumerate(columns))] for task in TASKS
    ]
    if pseudo:
        means = [iou.mean(np.array([np.nan if v is None else v for v in q.values()])) for q in columns[2:]]
        body.append(["**mean**", "", "", *map(number, means)])
    return ["## Thresholds", "", text, "", *markdown(header, body), ""]


def _classifier_section(classifiers: Mapping[Path, Path]) -> list[str]:
    if not classifiers:
        return []
    names = [json.loads((path / "model.json").read_text())["name"] for path in classifiers]
    if len(set(names)) < len(names):  # one network twice, trained otherwise
        names = [path.name for path in classifiers]
    table, _ = _auroc_table(dict(zip(names, classifiers.values(), strict=True)))
    text = (
        "AUROC of the image labels; of an encoder trained without them, by a linear probe. Chosen on valid."
    )
    return ["## Classifiers", "", text, "", *table, ""]


def _training_section(trainings: Sequence[Path]) -> list[str]:
    costs = {path.name: performance(path) for path in trainings}
    header = ["training", *next(iter(costs.values()))]
    body = [[name, *cost.values()] for name, cost in costs.items()]
    return ["## Training", "", "![training curves](curves.png)", "", *markdown(header, body), ""]


def _auroc_table(scores: Mapping[str, Path]) -> tuple[list[str], dict[str, float]]:
    """Lines of Markdown, and each column's mean, from artifacts with an `auroc.json`."""
    columns = {}
    for name, path in scores.items():
        for split, values in json.loads((path / "auroc.json").read_text()).items():
            known = [np.nan if values[task] is None else values[task] for task in TASKS]
            columns[f"{name}, {split}"] = bootstrap.with_mean(np.array(known))
    body = [[name, *(number(c[k]) for c in columns.values())] for k, name in enumerate((*TASKS, "**mean**"))]
    return markdown(["pathology", *columns], body), {name: float(c[-1]) for name, c in columns.items()}


def _provenance(config: ConfigDict, sources: Sources, stages: Sequence[Path]) -> list[str]:
    cards = [json.loads((path / "artifact.json").read_text()) for path in stages]
    body = [[path.name, f"{card['seconds']:.0f}"] for path, card in zip(stages, cards, strict=True)]
    return [
        "## How it was made",
        "",
        f"Radiographs from `{sources.root}`. Artifacts, and the seconds each took (if killed, since its last start):",
        "",
        *markdown(["artifact", "seconds"], body),
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions().items()) + ".",
        "",
        "Configuration:",
        "",
        "```json",
        json.dumps(plain(config), indent=1),
        "```",
    ]


def _overlays(path: Path, sources: Sources, test: Prepared, made: Made) -> None:
    """Test images with most to see, then pseudo-masked training images, each with every mask known of it."""
    predictions = read_segmentations(made.scores / "predictions.json")
    rows = np.argsort(-test.shown().sum(1), kind="stable")[: 3 * _SHOWN_IMAGES : 3]
    images = [test.images[i] for i in rows]
    names = [test.ids[i] for i in rows]
    truth: list = [unpack_masks(test.masks[i]) for i in rows]
    predicted = [fit_mask(predictions.masks(name), test.size) for name in names]
    columns = [("ground truth", truth), ("prediction", predicted)]
    if made.pseudo:
        weak, weak_predicted = Prepared.load(made.pseudo), np.load(made.scores / "weak_masks.npy")
        few = len(weak_predicted)
        images += list(weak.images[:few])
        names += [f"{name} (training)" for name in weak.ids[:few]]
        truth += [None] * few
        predicted += list(unpack_masks(weak_predicted))
        for title, masks in (
            ("pseudo-mask", weak),
            *(("refreshed", Prepared.load(p)) for p in made.refreshed),
        ):
            columns.append((title, [None] * len(rows) + list(unpack_masks(masks.masks[:few]))))
    figures.draw_overlays(path, images, names, columns, title=image_title(sources))


def _saliency(path: Path, sources: Sources, saliency: Sequence[Path], pseudo: Path, uncertainty: str) -> None:
    """A training image labelled with each of some pathologies, and every map on the way to its mask."""
    weak = Prepared.load(pseudo)
    positive = positive_tasks(weak.labels, uncertainty)
    cells = [(int(positive[:, k].argmax()), k) for k in np.flatnonzero(positive.any(0))][:_SHOWN_PSEUDO]
    columns = []
    for folder in saliency:
        maps = Records.open(folder / "maps")
        edges = folder / "edges"
        if edges.exists():
            drawn = Records.open(edges)
            columns.append(("boundary", [drawn[row].astype(np.float32) for row, _ in cells]))
        scaled = [np.asarray(normalise(maps[row][None]))[0, ..., k] for row, k in cells]
        columns.append(("walk" if edges.exists() else "Grad-CAM", scaled))
    figures.draw_saliency(
        path,
        [weak.images[row] for row, _ in cells],
        [f"{weak.ids[row]}\n{TASKS[k]}" for row, k in cells],
        columns,
        [unpack_masks(weak.masks[row]) & (np.arange(len(TASKS)) == k) for row, k in cells],
        title=image_title(sources),
    )


def image_title(sources: Sources) -> str:
    """What stands above pictures of radiographs; a phantom is called one."""
    return "phantom: synthetic images, not patients" if sources.is_phantom else sources.root.resolve().name


def open_run(workdir: Path, config: ConfigDict) -> Path:
    """The folder of a configuration's report, with `config.json` in it."""
    keys = ("p", "pseudo", "init", "refreshes", "trial")
    parts = [
        config.name,
        *(f"{k}={config[k]}" for k in keys if config.get(k)),
        f"seed={config.seed}",
        config.scale,
    ]
    run = workdir / "runs" / f"{','.join(map(str, parts))}-{config_digest(config)}"
    run.mkdir(parents=True, exist_ok=True)
    _write(run / "config.json", json.dumps(plain(config), indent=1))
    return run


# Each takes its name at once: the same run may be going on elsewhere, and programs read these.


def _write(path: Path, text: str) -> None:
    with written_aside(path) as file:
        file.write(text)


def _copy(source: Path, folder: Path) -> None:
    aside = aside_of(folder / source.name)
    shutil.copyfile(source, aside)
    aside.replace(folder / source.name)


def _link(link: Path, target: Path) -> None:
    aside = aside_of(link)
    aside.unlink(missing_ok=True)
    aside.symlink_to(os.path.relpath(target, link.parent))
    aside.replace(link)
