"""`report.html`: tables, figures and a gallery of the test images in one file that needs no network and no server."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chexseg_jax.data.chexlocalize import encode
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.files import written_aside
from chexseg_jax.paper.gallery import TRUTH, Gallery
from chexseg_jax.paper.tables import Table
from chexseg_jax.report.figures import COLOURS

_HERE = Path(__file__).parent


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str],
    tables: Sequence[Table],
    figures: Sequence[tuple[Path, str]],
    gallery: Gallery,
    *,
    picture: str,
) -> None:
    """Writes the page.

    Args:
      path: the file.
      title: of the page.
      notes: paragraphs between empty lines, `**bold**` as in Markdown.
      tables: in order.
      figures: PNG files, named figN, with what stands below them.
      gallery: the images to browse.
      picture: what one of these is.
    """
    parts = {
        "title": html.escape(title),
        "style": (_HERE / "page.css").read_text(),
        "script": (_HERE / "page.js").read_text(),
        "notes": "\n".join(f"<p>{_inline(note)}</p>" for note in notes if note),
        "tables": "\n".join(_table(number, table) for number, table in enumerate(tables)),
        "figures": "\n".join(_figure(*figure) for figure in figures),
        "sources": html.escape(" ".join(map(gallery.told, gallery.words))),
        # "</" would end the script element that holds it.
        "data": json.dumps({"picture": picture, **gallery_data(gallery)}, separators=(",", ":")).replace(
            "</", "<\\/"
        ),
    }
    page = (_HERE / "page.html").read_text()
    with written_aside(path) as file:
        file.write(re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page))


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """What page.js draws: tasks with colours, sources, and the images (JPEG) with scores and run-length coded masks."""
    images = []
    for row, image_id in enumerate(gallery.ids):
        masks = {}
        for source in gallery.sources:
            drawn = gallery.masks(source, row)
            masks[source] = {
                str(k): encode(drawn[..., k])["counts"] for k in np.flatnonzero(drawn.any((0, 1)))
            }
        scores = {
            source: [None if np.isnan(value) else round(float(value), 4) for value in values[row]]
            for source, values in gallery.scores.items()
        }
        images.append({"id": image_id, "jpeg": _jpeg(gallery.image(row)), "masks": masks, "scores": scores})
    return {
        "size": gallery.prepared.size,
        "tasks": [{"name": task, "colour": COLOURS[task]} for task in TASKS],
        "sources": list(gallery.sources),
        "truth": TRUTH,
        "images": images,
    }


def _jpeg(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=90)  # at 320 px a radiograph has 15 kB, as PNG 40
    return _base64(stream.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.*?)\*\*", r"<strong>\1</strong>", html.escape(text, quote=False))
    return re.sub(r"`(.*?)`", r"<code>\1</code>", text)


def _table(number: int, table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        first, *rest = map(_inline, cells)
        return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'

    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in table.header)
    body = "\n".join(map(line, table.rows))
    return (
        f'<h3 id="table-{number}">{_inline(table.title)}</h3>'
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="table-{number}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(path: Path, caption: str) -> str:
    name = f"Figure {path.stem.removeprefix('fig')}"
    data = _base64(path.read_bytes())
    alt = f"{name}, told below; tables and gallery hold what it shows"
    return (
        f'<figure><div class="wide" tabindex="0" role="region" aria-label="{name}">'
        f'<img src="data:image/png;base64,{data}" alt="{alt}"></div>'
        f"<figcaption>{name}. {html.escape(caption)}</figcaption></figure>"
    )
