"""The folder of a single run: its report, and beside it figures, scores, predictions, metrics and the model."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from chexseg_jax.artifact import config_digest, plain, read_record, versions
from chexseg_jax.data.chexpert import positive_tasks
from chexseg_jax.data.images import unpack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import FILE, Taxonomy
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.probe import PENALTIES
from chexseg_jax.files import aside_of, give_folder, written_aside
from chexseg_jax.progress import say
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.report import figures
from chexseg_jax.report.gallery import TRUTH, Gallery
from chexseg_jax.report.protocol import describe_protocol
from chexseg_jax.report.score_table import auroc_table, score_table
from chexseg_jax.report.tables import Table, number
from chexseg_jax.report.writer import Listing, Picture, Report, Section, write_report
from chexseg_jax.sources import Sources
from chexseg_jax.training.loggers import read_metrics
from chexseg_jax.training.profiling import performance

_OVERLAY_IMAGES = 6
_SALIENCY_IMAGES = 6
_PREDICTION = "prediction"
_THRESHOLD_RULES: dict[str | float, str] = {
    "tuned": "the best by mean IoU on the same images",
    "otsu": "one per map, by Otsu's rule",
}


@dataclass(frozen=True)
class Made:
    """The artifacts of a segmentation's chain.

    Attributes:
      classifiers: artifacts of trained classifiers and encoders -> artifacts with their `auroc.json`.
      trainings: of all trainings, including `classifiers`; `model` is the last.
      saliency: title -> artifact with records `maps`, and maybe `edges`, in order of computation.
      pseudo: the pseudo-masks; None for p = 1.
      model: the trained segmentation.
      scores: its predictions and scores.
    """

    classifiers: Mapping[Path, Path]
    trainings: Sequence[Path]
    saliency: Mapping[str, Path]
    pseudo: Path | None
    model: Path
    scores: Path


def report_segmentation(
    workdir: Path, config: ConfigDict, sources: Sources, *, test: Path, made: Made
) -> Path:
    """Write a segmentation run's folder below `workdir/runs`.

    It holds `report.md`, `report.html`, `scores.json`, `overlays.png`, `saliency.png` (for p < 1), `curves.png`,
    `metrics.jsonl`, `predictions.json` (CheXlocalize's format), `config.json`, and `model`, which
    `chexseg_jax.restore` opens; and `tasks.toml` if the tasks are not CheXpert's.

    Args:
      workdir: the work directory.
      config: of the run.
      sources: the data.
      test: artifact of `prepare`.
      made: all other artifacts.

    Returns:
      The folder.
    """
    run = open_run(workdir, config)
    table, scores = score_table(
        iou.load_counts(made.scores), sources.taxonomy.tasks, replicates=config.scores.bootstrap
    )
    _write_json(run / "scores.json", {"data": sources.title, **scores})
    for name in {"predictions.json", FILE} & {path.name for path in made.scores.iterdir()}:
        _copy(made.scores / name, run)
    gallery = Gallery.open(test, sources, {_PREDICTION: made.scores}, words={})
    sections = [_score_section(run, sources, table, gallery, made)]
    if made.pseudo:
        sections.append(_saliency_section(run, config, sources, made.pseudo, made.saliency))
    sections.append(_threshold_section(config, sources.taxonomy, made))
    if made.classifiers:
        sections.append(_classifier_section(made.classifiers, sources.taxonomy))
    artifacts = [*made.classifiers, made.pseudo, *made.trainings, made.scores]
    title = f"mixture p = {config.p:g}, init = {config.init}"
    test_scores = {"test mIoU (pooled)": scores["pooled"]["mean"]}
    _write_run(
        run,
        config,
        sources,
        title,
        sections,
        made.trainings,
        artifacts=artifacts,
        scores=test_scores,
        gallery=gallery,
    )
    say(f"test mIoU (pooled) {number(scores['pooled']['mean'])} ({sources.title})")
    return run


def report_classifier(
    workdir: Path, config: ConfigDict, sources: Sources, classifier: Path, auroc: Path
) -> Path:
    """Write a classifier run's folder: `report.md`, `report.html`, `curves.png`, `metrics.jsonl` and `model`."""
    run = open_run(workdir, config)
    sections = [_classifier_section({classifier: auroc}, sources.taxonomy)]
    means = auroc_table({"mean AUROC": auroc}, sources.taxonomy)[1]
    title = f"classifier {config.classifier.model}"
    _write_run(run, config, sources, title, sections, [classifier], scores=_without_nan(means))
    return run


def report_moco(
    workdir: Path, config: ConfigDict, sources: Sources, encoder: Path, probes: Mapping[str, Path]
) -> Path:
    """Write a MoCo run's folder: as for a classifier, and `probe.json`.

    Args:
      workdir, config, sources: see `report_segmentation`.
      encoder: the pretrained encoder's artifact.
      probes: title -> artifact of a probe, of this encoder and of those to compare with.
    """
    run = open_run(workdir, config)
    lines = [line for line in read_metrics(encoder / "metrics.jsonl") if "top1" in line]
    last = lines[-max(1, len(lines) // 5) :]
    loss, top1 = (np.mean([line[key] for line in last]) for key in ("loss", "top1"))
    # A short training never fills the queue.
    keys = [min(config.moco.queue, config.moco.batch_size * (int(line["step"]) - 1)) for line in last]
    contrast = (
        f"InfoNCE ended at {loss:.3f}; chance, with {keys[-1]} keys in the queue, is {np.log1p(keys).mean():.3f}. "
        f"{top1:.0%} of the queries were nearest to their own key. (Means of the last batches logged: {len(last)}.)"
    )
    table, means = auroc_table(probes, sources.taxonomy)
    choice = f"the best on the valid images{_after_choice(means)}."
    if not _judged(means):
        choice = f"{PENALTIES[0]:g}: no task has both labels on valid, so there was nothing to choose it by."
    text = (
        "AUROC of logistic regressions on the frozen encoder's mean features, trained on the weak labels. The penalty "
        f"is {choice}"
    )
    _write_json(run / "probe.json", _without_nan(means))
    sections, title = [Section("Linear probe", [text, table])], f"MoCo v2, {config.encoder.model}"
    own = auroc_table({"mean AUROC of a linear probe": probes["MoCo"]}, sources.taxonomy)[1]
    _write_run(run, config, sources, title, sections, [encoder], notes=[contrast], scores=_without_nan(own))
    probed = ", ".join(f"{name} {number(value)}" for name, value in means.items())
    say(f"linear probe, mean AUROC: {probed} ({sources.title})")
    return run


def open_run(workdir: Path, config: ConfigDict) -> Path:
    """Create the folder of a configuration's report, with `config.json` in it."""
    keys = ("p", "pseudo", "init", "experts", "trial") if config.kind == "segmentation" else ()
    values = [f"{key}={config[key]}" for key in keys if config[key]]
    name = ",".join([config.name, *values, f"seed={config.seed}", config.scale])
    run = workdir / "runs" / f"{name}-{config_digest(config)}"
    run.mkdir(parents=True, exist_ok=True)
    _write_json(run / "config.json", plain(config))
    return run


def _write_run(
    run: Path,
    config: ConfigDict,
    sources: Sources,
    title: str,
    sections: Sequence[Section],
    trainings: Sequence[Path],
    *,
    artifacts: Sequence[Path | None] = (),
    notes: Sequence[str] = (),
    scores: Mapping[str, float | None] | None = None,
    gallery: Gallery | None = None,
) -> None:
    """Write the report and the files that all kinds of runs have.

    Args:
      run: the folder.
      config, sources: see `report_segmentation`.
      title: what was trained.
      sections: those that only this kind of run has.
      trainings: artifacts of all trainings, that of the run's model last.
      artifacts: all artifacts; () for the trainings alone.
      notes: paragraphs for the top.
      scores: of the model on the test images, for its provenance.
      gallery: the test images.
    """
    model, made = trainings[-1], [path for path in dict.fromkeys(artifacts or trainings) if path]
    _copy(model / "metrics.jsonl", run)
    give_folder(model, run / "model")
    # The artifact is older than its scores, and may be older than provenance.
    provenance = replace(sources.provenance(config.data), scores=scores or {})
    card = json.loads((model / "model.json").read_text())
    _write_json(run / "model" / "model.json", {**card, "provenance": provenance.to_dict()})
    common = [_training_section(run, trainings), _provenance_section(config, sources, made)]
    title = f"{config.name}: {title}, seed {config.seed}, {config.scale} scale"
    write_report(
        run, Report(title, [sources.note, describe_protocol(config), *notes], [*sections, *common]), gallery
    )
    say(f"report: {run / 'report.html'}")


def _score_section(run: Path, sources: Sources, table: Table, gallery: Gallery, made: Made) -> Section:
    listed = gallery.prepared.listed
    text = (
        f"{listed.sum()} test images at full size. *pooled*: sum of intersections over sum of unions (CheXseg); "
        "*per image*: mean over images that both the radiologist and the model marked (CheXlocalize). In brackets "
        "95 % intervals, bootstrap over images. *box*: a centred box of the task's mean size in the expert training "
        "images, on every image. A task without a positive test mask has no IoU: it is absent, and left out of the "
        "mean."
    )
    if others := (~listed).sum():
        text += (
            f" IoU leaves out the test images that the segmentations file does not list ({others} of {len(listed)}), "
            "as the published code does; `predictions.json` holds their masks too."
        )
    if unknown := (pairs := gallery.unknown[listed]).sum():
        text += f" {unknown} pairs of image and task of {pairs.size} were not annotated and have no weight."
    notes = [sources.reader_note] if sources.reader_note else []
    _draw_overlays(run / "overlays.png", gallery, made, sources.title)
    picture = Picture(run / "overlays.png", "radiograph, ground truth and prediction")
    return Section("Test IoU", [text, *notes, table, picture])


def _saliency_section(
    run: Path, config: ConfigDict, sources: Sources, pseudo: Path, saliency: Mapping[str, Path]
) -> Section:
    """A training image for each of some tasks, with every map on the way to its mask."""
    weak, tasks = Prepared.load(pseudo), sources.taxonomy.tasks
    positive = positive_tasks(weak.labels, config.data.uncertainty, sources.taxonomy)
    cells = [(int(positive[:, k].argmax()), k) for k in np.flatnonzero(positive.any(0))][:_SALIENCY_IMAGES]
    columns = []
    for title, folder in saliency.items():
        if (folder / "edges").exists():
            edges = Records.open(folder / "edges")
            columns.append(("boundary", [edges[row].astype(np.float32) for row, _ in cells]))
        maps = Records.open(folder / "maps")
        columns.append((title, [_scaled(maps[row][..., k]) for row, k in cells]))
    figures.draw_saliency(
        run / "saliency.png",
        [weak.images[row] for row, _ in cells],
        [f"{weak.ids[row]}\n{tasks[k]}" for row, k in cells],
        columns,
        [weak.read_masks(row) & (np.arange(len(tasks)) == k) for row, k in cells],
        taxonomy=sources.taxonomy,
        title=sources.title,
    )
    text = (
        "Training images, each for one of the pathologies it is labelled with: the maps, scaled to [0, 1], and the "
        "mask."
    )
    picture = Picture(run / "saliency.png", "saliency and pseudo-masks")
    return Section("From saliency to pseudo-masks", [text, picture])


def _threshold_section(config: ConfigDict, taxonomy: Taxonomy, made: Made) -> Section:
    card = json.loads((made.model / "model.json").read_text())
    columns: dict[str, Mapping[str, float | None]] = {"probability": card["thresholds"]}
    text = (
        "Thresholds on the segmentation's probability: the best by pooled IoU on the expert training images."
    )
    if not any("miou" in line for line in read_metrics(made.model / "metrics.jsonl")):
        text += " No validation image has masks: there was nothing to choose a checkpoint by, so the last was kept."
    if made.pseudo:
        labeller = LABELLERS[config.pseudo]
        thresholds, quality = (
            json.loads((made.pseudo / f"{name}.json").read_text()) for name in ("thresholds", "quality")
        )
        rule = _THRESHOLD_RULES.get(labeller.parse_threshold(config.pseudo_masks.threshold), "fixed")
        text += (
            f" Thresholds on the normalised {labeller.title} maps: {rule}. Beside them, on the expert training images "
            "that show the pathology, the mean IoU of the thresholded maps and of centred boxes of the same areas."
        )
        for task, reason in quality["degenerate"].items():
            text += f" **{task}**: {reason}."
        columns |= {
            f"{labeller.title} maps": thresholds or {},
            f"IoU of thresholded {labeller.title} maps": quality["masks"],
            "IoU of a centred box of equal area": quality["box"],
        }
    rows = [
        [task, *(number(column.get(task), 2 + (i > 1)) for i, column in enumerate(columns.values()))]
        for task in taxonomy.tasks
    ]
    if made.pseudo:
        means = (iou.mean(np.array([*quality[name].values()], float)) for name in ("masks", "box"))
        rows.append(["**mean**", "", "", *(number(float(mean)) for mean in means)])
    return Section("Thresholds", [text, Table(["pathology", *columns], rows)])


def _classifier_section(classifiers: Mapping[Path, Path], taxonomy: Taxonomy) -> Section:
    names = [json.loads((path / "model.json").read_text())["name"] for path in classifiers]
    if len(set(names)) < len(names):  # one network, trained twice in different ways
        names = [path.name for path in classifiers]
    table, means = auroc_table(dict(zip(names, classifiers.values(), strict=True)), taxonomy)
    text = "AUROC of the image labels; for an encoder trained without labels, AUROC of a linear probe. "
    text += (
        f"Checkpoints of the trainings were chosen on valid{_after_choice(means)}."
        if _judged(means)
        else "No task has both labels on valid: nothing was chosen there."
    )
    return Section("Classifiers", [text, table])


def _training_section(run: Path, trainings: Sequence[Path]) -> Section:
    metrics = {path.name: read_metrics(path / "metrics.jsonl") for path in trainings}
    figures.draw_curves(run / "curves.png", metrics)
    costs = {path.name: performance(path) for path in trainings}
    header = ["training", *next(iter(costs.values()))]
    rows = [[name, *cost.values()] for name, cost in costs.items()]
    return Section("Training", [Picture(run / "curves.png", "training curves"), Table(header, rows)])


def _provenance_section(config: ConfigDict, sources: Sources, artifacts: Sequence[Path]) -> Section:
    cards = [read_record(path) for path in artifacts]
    rows = [[path.name, f"{card['seconds']:.0f}"] for path, card in zip(artifacts, cards, strict=True)]
    rows.append(["**together**", f"{sum(card['seconds'] for card in cards):.0f}"])
    text = f"Radiographs from `{sources.root}`. Artifacts and their seconds (after a kill, since the last start):"
    packages = ", ".join(f"{name} {value}" for name, value in versions().items())
    configuration = Listing("Configuration", json.dumps(plain(config), indent=1))
    return Section(
        "How it was made",
        [text, Table(["artifact", "seconds"], rows), f"Versions: {packages}.", configuration],
    )


def _without_nan(means: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON has them."""
    return {name: None if math.isnan(value) else value for name, value in means.items()}


def _judged(means: Mapping[str, float]) -> bool:
    """Whether the valid images, on which checkpoints and penalties are chosen, have an AUROC."""
    return not any(math.isnan(value) for name, value in means.items() if name.endswith(", valid"))


def _after_choice(means: Mapping[str, float]) -> str:
    """What the choice on the valid images means for the scores beside it."""
    if any(name.endswith(", test") for name in means):
        return ", so judge by the test column"
    return "; without test images, these scores are optimistic"


def _draw_overlays(path: Path, gallery: Gallery, made: Made, title: str) -> None:
    """Draw the test images with the most masks, then pseudo-masked training images."""
    test, rows = gallery.prepared, gallery.fullest(_OVERLAY_IMAGES)
    tasks = len(test.taxonomy.tasks)
    images, names = [test.images[i] for i in rows], [test.ids[i] for i in rows]
    columns = gallery.columns((TRUTH, _PREDICTION), rows)
    if made.pseudo:
        predicted = unpack_masks(np.load(made.scores / "weak_masks.npy"), tasks)
        few = len(predicted)
        weak = Prepared.load(made.pseudo)
        images += list(weak.images[:few])
        names += [f"{name} (training)" for name in weak.ids[:few]]
        more = {TRUTH: [None] * few, _PREDICTION: list(predicted)}
        columns = [(heading, [*masks, *more[heading]]) for heading, masks in columns]
        columns.append(("pseudo-mask", [*[None] * len(rows), *weak.read_masks(slice(few))]))
    figures.draw_overlays(path, images, names, columns, taxonomy=test.taxonomy, title=title)


def _scaled(map_: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """A map scaled to [0, 1)."""
    map_ = map_.astype(np.float32) - map_.min()
    return map_ / (map_.max() + 1e-7)


# Each file takes its name once it is complete: other processes may read it, or make the same run.


def _write_json(path: Path, value: Any) -> None:
    with written_aside(path) as file:
        json.dump(value, file, indent=1)


def _copy(source: Path, folder: Path) -> None:
    aside = aside_of(folder / source.name)
    shutil.copyfile(source, aside)
    aside.replace(folder / source.name)
