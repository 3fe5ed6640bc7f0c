"""A table's folder: `tables/`, `figures/` and `report.html`, from the finished runs."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from ml_collections import ConfigDict

from chexseg_jax.paper import efficiency, figures, tables
from chexseg_jax.paper.results import Results
from chexseg_jax.progress import say
from chexseg_jax.report.gallery import Gallery
from chexseg_jax.report.protocol import describe_protocol
from chexseg_jax.report.tables import Table
from chexseg_jax.report.writer import Picture, Report, Section, write_page
from chexseg_jax.settings import Setting, Trial
from chexseg_jax.sources import Sources


def write_paper(
    folder: Path,
    config: ConfigDict,
    sources: Sources,
    test: Path,
    results: Results,
    missing: Mapping[str, str],
    absent: Mapping[Trial, str] = MappingProxyType({}),
) -> None:
    """Write a table's tables, figures and page; the same finished runs give the same bytes.

    Args:
      folder: receives `tables/`, `figures/` and `report.html`.
      config: of the table.
      sources: the data.
      test: the prepared test set.
      results: of the finished runs.
      missing: name of each other run -> why it is missing.
      absent: runs that need public weights, which are not on this machine -> where to get them.
    """
    if not results:
        exists = (folder / "report.html").exists()
        outdated = "; the existing report.html is outdated" if exists else ""
        say(f"{config.name}: no finished run, so no table in {folder}{outdated}")
        return
    settings = frozenset(trial.setting for trial in absent)
    notes = [
        *_notes(config, sources, results, missing),
        *map("**Absent.** {}.".format, describe_absent(absent)),
    ]
    contents = _tables(config, sources, results, settings)
    tables.write_tables(folder / "tables", config, contents, notes, results, sources)
    gallery = open_gallery(test, sources, results)
    pictures = _figures(folder / "figures", config, sources, results, gallery, settings)
    title = f"{config.name}, {config.scale} scale ({sources.title})"
    sections = [Section("Tables", contents), Section("Figures", pictures)]
    write_page(folder / "report.html", Report(title, notes, sections), gallery)
    say(f"{config.name}: {folder / 'report.html'}")


def describe_absent(absent: Mapping[Trial, str]) -> list[str]:
    """One line a reason: how many runs are absent for it, their settings, and the fix."""
    lines = []
    for reason in dict.fromkeys(absent.values()):
        runs = [trial for trial in absent if absent[trial] == reason]
        titles = dict.fromkeys(trial.setting.title for trial in runs)
        lines.append(f"Runs absent: {len(runs)} ({reason}): {'; '.join(titles)}")
    return lines


def open_gallery(test: Path, sources: Sources, results: Results) -> Gallery:
    """The first trials of the best semi-, weakly and fully supervised models, and the second reader."""
    best = {
        "semi-supervised": results.semi,
        "weakly supervised": results.weak,
        "fully supervised": results.full,
    }
    runs = {title: (setting, results[setting][0]) for title, setting in best.items() if setting}
    scores = {title: run.scores for title, (_, run) in runs.items()}
    words = {title: f"{setting.words}, trial {run.number}" for title, (setting, run) in runs.items()}
    return Gallery.open(test, sources, scores, words)


def _notes(config: ConfigDict, sources: Sources, results: Results, missing: Mapping[str, str]) -> list[str]:
    notes = [
        sources.note,
        describe_protocol(config),
        "IoU: sum of intersections over sum of unions of all test images in the segmentations file; the mean is over "
        "the pathologies with a test mask. Brackets hold 95 % intervals: of models over trials (Student's t); "
        f"in comparisons by a paired bootstrap over these images ({config.scores.bootstrap} replicates, seed 0). The "
        "paper's numbers are on CheXpert, not on this data, and its mean is over its ten pathologies; compare their "
        "shape.",
    ]
    if sources.reader_note:
        notes.append(sources.reader_note)
    if shape := tables.shape(config, results) if config.kind == "table1" else []:
        notes.append("\n".join(shape))
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        notes.append(f"**Runs missing: {len(names)}** ({reason}): {'; '.join(names)}.")
    return notes


def _tables(
    config: ConfigDict, sources: Sources, results: Results, absent: Collection[Setting]
) -> list[Table]:
    tasks, replicates = sources.taxonomy.tasks, config.scores.bootstrap
    match config.kind:
        case "table1":
            pairs = tables.named_pairs(config)
            own = tables.table1(config, results, tasks, absent)
        case "table2":
            own, pairs = tables.table2(config, results, absent), {}
        case _:
            own, pairs = [efficiency.table(config, results, absent)], efficiency.pairs(config)
    return [
        *own,
        *tables.differences(results, pairs, replicates=replicates),
        *tables.comparisons(results, replicates=replicates),
        tables.yardsticks(results, replicates=replicates),
        tables.compared(results, tasks, replicates=replicates),
    ]


def _figures(
    folder: Path,
    config: ConfigDict,
    sources: Sources,
    results: Results,
    gallery: Gallery,
    absent: Collection[Setting],
) -> list[Picture]:
    folder.mkdir(exist_ok=True)
    tasks, title = sources.taxonomy.tasks, sources.title
    match config.kind:
        case "table1":
            own = figures.draw_figure2(folder, config, results, tasks, title)
        case "table2":
            own = figures.draw_figure3(folder, config, results, title, absent)
        case _:
            own = efficiency.draw(folder, config, results, sources)
    return [
        own,
        figures.draw_figure4(folder, gallery, title),
        figures.draw_figure5(folder, results, tasks, title, replicates=config.scores.bootstrap),
    ]
