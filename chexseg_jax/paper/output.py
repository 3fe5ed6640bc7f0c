"""A table's folder: `tables/`, `figures/` and `report.html`, from the runs that are finished."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.paper import figures, tables
from chexseg_jax.paper.gallery import Gallery
from chexseg_jax.paper.page import write_page
from chexseg_jax.paper.results import Results
from chexseg_jax.progress import say
from chexseg_jax.report.run import PHANTOM_NOTE, image_title
from chexseg_jax.sources import Sources

#: Of `recipe=plus`: what sets its runs apart, and apart from each other.
_REFRESHED = (
    "**Not the paper's recipe**: a model with pseudo-masks makes them anew and goes on training with these for as many "
    "steps again (refreshes: {}). One of expert masks alone (p = 1) does not, and its fewer steps are part of any "
    "difference."
)


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
        old = (
            "; what is there was made of runs that no longer hold"
            if (folder / "report.html").exists()
            else ""
        )
        say(f"{config.name}: no finished run, so no table in {folder}{old}")
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
    of.append(tables.compared(results, replicates=replicates))
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
        *(("", sources.reader_note) if sources.reader_note else ()),
        *(("", _REFRESHED.format(config.refreshes)) if config.refreshes else ()),
        *(("", *tables.shape(config, results)) if one else ()),
        *(
            line
            for reason, names in reasons.items()
            for line in ("", f"**Runs missing: {len(names)}** ({reason}): {'; '.join(names)}.")
        ),
    ]
    title = image_title(sources)
    tables.write_tables(folder / "tables", config.name, of, notes, results, title)

    drawn = folder / "figures"
    drawn.mkdir(exist_ok=True)
    gallery = Gallery.open(test, results, sources.second_reader)
    first, draw = ("fig2", figures.draw_figure2) if one else ("fig3", figures.draw_figure3)
    captions = {
        first: draw(drawn, config, results, title),
        "fig4": figures.draw_figure4(drawn, gallery, title),
        "fig5": figures.draw_figure5(drawn, results, title, replicates=replicates),
    }
    write_page(
        folder / "report.html",
        f"{config.name}, {config.scale} scale ({title})",
        notes,
        of,
        [(drawn / f"{name}.png", caption) for name, caption in captions.items()],
        gallery,
        picture="Synthetic image" if sources.is_phantom else "Radiograph",
    )
    say(f"{config.name}: {folder / 'report.html'}")
