"""A table's folder: `tables/`, `figures/` and `report.html`, from the runs that are finished."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.paper import figures, tables
from chexseg_jax.paper.gallery import Gallery
from chexseg_jax.paper.page import write_page
from chexseg_jax.paper.results import Results
from chexseg_jax.progress import say
from chexseg_jax.stages.report import PHANTOM_NOTE, image_title
from chexseg_jax.stages.sources import Sources

_ALT = {
    "fig2": "Figure 2: IoU over p, the mean and three pathologies, for both kinds of pseudo-masks",
    "fig3": "Figure 3: mean IoU by initialisation and number of pseudo-masks",
    "fig4": "Figure 4: radiographs with masks: ground truth, semi-supervised, weakly supervised",
    "fig5": "Figure 5: IoU of each pathology: second reader, semi-supervised, weakly supervised",
}


def write_paper(
    folder: Path,
    config: ConfigDict,
    sources: Sources,
    test: Path,
    results: Results,
    missing: Mapping[str, str],
) -> None:
    """Writes all that a table shows; the same finished runs give the same bytes.

    Args:
      folder: takes `tables/`, `figures/` and `report.html`.
      config: of the table; its name says which.
      sources: what it was run on.
      test: the prepared test set.
      results: of the finished runs.
      missing: the other runs, with why they are.
    """
    if not results:
        say(f"{config.name}: no finished run, so no table")
        return
    replicates = config.scores.bootstrap
    one = config.name == "table1"
    of = (tables.table1 if one else tables.table2)(config, results)
    of += filter(
        None,
        (
            tables.comparisons(results, replicates=replicates),
            tables.yardsticks(results, replicates=replicates),
        ),
    )
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    notes = [
        PHANTOM_NOTE if sources.is_phantom else f"Data: `{sources.root}`.",
        "",
        "IoU: intersections over unions, both summed over the test images; the mean is over the pathologies with a "
        "test mask. Brackets hold 95 % intervals: over trials by Student's t in Tables 1 and 2; in comparisons by a "
        f"bootstrap over test images ({replicates} replicates, seed 0), paired. The paper's numbers are on CheXpert; "
        "they are not this data's, and stand beside for their shape.",
        *(("", *tables.shape(config, results)) if one else ()),
        *(
            line
            for reason, names in reasons.items()
            for line in ("", f"**Runs missing: {len(names)}** ({reason}): {'; '.join(names)}.")
        ),
    ]
    tables.write_tables(folder / "tables", config.name, of, notes, results)

    title = image_title(sources)
    drawn = folder / "figures"
    drawn.mkdir(exist_ok=True)
    gallery = Gallery.open(test, results, sources.second_reader)
    if one:
        figures.draw_figure2(drawn, config, results, title)
    else:
        figures.draw_figure3(drawn, config, results, title)
    figures.draw_figure4(drawn, gallery, title)
    figures.draw_figure5(drawn, results, title, replicates=replicates)
    shown = [(drawn / f"{name}.png", alt) for name, alt in _ALT.items() if (drawn / f"{name}.png").exists()]
    write_page(
        folder / "report.html", f"{config.name}, {config.scale} scale ({title})", notes, of, shown, gallery
    )
    say(f"{config.name}: {folder / 'report.html'}")
