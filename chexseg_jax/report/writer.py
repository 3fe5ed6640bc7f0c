"""A report as Markdown and as one HTML file that needs no network and no server, from the same sections."""

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chexseg_jax.files import written_aside
from chexseg_jax.report.gallery import Gallery
from chexseg_jax.report.tables import Table, markdown

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """A PNG: in Markdown a link to the file, which lies beside the report; in HTML embedded."""

    path: Path
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Listing:
    """JSON to look up: in HTML folded away."""

    title: str
    json: str


#: A paragraph (`**bold**`, `*italic*` and `code` as in Markdown), or one of the above.
Block = str | Table | Picture | Listing


@dataclass(frozen=True)
class Section:
    """A heading and its content."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """What both forms show; `notes` are paragraphs below the title."""

    title: str
    notes: Sequence[str]
    sections: Sequence[Section]


def write_report(folder: Path, report: Report, gallery: Gallery | None = None) -> None:
    """Write `report.md` and `report.html`; the gallery is part of the HTML alone."""
    sections = [block for s in report.sections for block in (f"## {s.heading}", *s.blocks)]
    with written_aside(folder / "report.md") as file:
        file.write(to_markdown([f"# {report.title}", *report.notes, *sections]))
    write_page(folder / "report.html", report, gallery)


def write_page(path: Path, report: Report, gallery: Gallery | None = None) -> None:
    """Write the HTML form alone."""
    headings = [s.heading for s in report.sections] + (["Gallery"] if gallery else [])
    parts = {
        "title": html.escape(report.title),
        "style": (_HERE / "page.css").read_text(),
        "links": " ".join(f'<a href="#{_anchor(h)}">{html.escape(h)}</a>' for h in headings),
        "notes": "\n".join(f"<p>{_inline(note)}</p>" for note in report.notes),
        "sections": "\n".join(map(_section, report.sections)),
        "gallery": _gallery(report.title, gallery) if gallery else "",
    }
    with written_aside(path) as file:
        file.write(_fill("page.html", parts))


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown, with an empty line between them."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Table():
            title = f"**{block.title}**\n\n" if block.title else ""
            return title + "\n".join(markdown(block.header, block.rows))
        case Picture():
            return f"![{block.alt}]({block.path.name})"
        case Listing():
            return f"{block.title}:\n\n```json\n{block.json}\n```"
    return block


def _section(section: Section) -> str:
    anchor = _anchor(section.heading)
    blocks = "\n".join(_html(block, section.heading) for block in section.blocks)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<h2 id="{anchor}-title">{html.escape(section.heading)}</h2>\n{blocks}\n</section>'
    )


def _html(block: Block, heading: str) -> str:
    match block:
        case Table():
            return _table(block, heading)
        case Picture():
            caption = f"<figcaption>{_inline(block.caption)}</figcaption>" if block.caption else ""
            data = base64.b64encode(block.path.read_bytes()).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(block.alt)}">'
            return f"<figure>{_wide(image, block.alt)}{caption}</figure>"
        case Listing():
            listing = _wide(f"<pre>{html.escape(block.json)}</pre>", block.title)
            return f"<details><summary>{html.escape(block.title)}</summary>{listing}</details>"
    return f"<p>{_inline(block)}</p>"


def _table(table: Table, heading: str) -> str:
    def line(cells: Sequence[str]) -> str:
        first, *rest = map(_inline, cells)
        return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'

    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in table.header)
    body = "\n".join(map(line, table.rows))
    title = f"<h3>{_inline(table.title)}</h3>" if table.title else ""
    cells = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return title + _wide(cells, table.title or heading)


def _wide(content: str, label: str) -> str:
    """A region of its own that scrolls sideways, also by keyboard."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label)}">{content}</div>'


def _gallery(title: str, gallery: Gallery) -> str:
    count, shown = len(gallery.prepared), len(gallery.shown)
    some = f"{shown:,} of the {count:,} test images, taken evenly, with their masks."
    parts = {
        "title": html.escape(title),
        "which": "Every test image with its masks." if shown == count else some,
        "sources": html.escape(" ".join(map(gallery.describe, gallery.words))),
        "script": (_HERE / "gallery.js").read_text(),
        # "</" would end the script element around it.
        "data": json.dumps(gallery.data(), separators=(",", ":")).replace("</", "<\\/"),
    }
    return _fill("gallery.html", parts)


def _fill(template: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (_HERE / template).read_text())


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower())


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    for pattern, tag in ((r"\*\*(.*?)\*\*", "strong"), (r"\*(.*?)\*", "em"), ("`(.*?)`", "code")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text
