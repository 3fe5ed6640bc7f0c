from PIL import Image

from chexseg_jax.report.tables import Table
from chexseg_jax.report.writer import Listing, Picture, Report, Section, write_report


def test_markdown_and_html_hold_the_same_sections(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "curves.png")
    blocks = [
        "Words & **bold**, *emphasis*, `code`.",
        Table(["task", "IoU"], [["a<b", "0.5"]], "A table."),
        Picture(tmp_path / "curves.png", "curves", "Curves."),
        Listing("Configuration", '{"a": "</script>"}'),
    ]
    write_report(tmp_path, Report("run & more", ["A note."], [Section("How it went", blocks)]))
    assert (tmp_path / "report.md").read_text() == "\n".join(
        [
            "# run & more",
            "",
            "A note.",
            "",
            "## How it went",
            "",
            "Words & **bold**, *emphasis*, `code`.",
            "",
            "**A table.**",
            "",
            "| task | IoU |",
            "| ---- | --: |",
            "| a<b  | 0.5 |",
            "",
            "![curves](curves.png)",
            "",
            "Configuration:",
            "",
            "```json",
            '{"a": "</script>"}',
            "```",
            "",
        ]
    )
    page = (tmp_path / "report.html").read_text()
    for part in (
        "<title>CheXseg-JAX: run &amp; more</title>",
        '<a href="#how-it-went">How it went</a>',
        "<p>A note.</p>",
        "<p>Words &amp; <strong>bold</strong>, <em>emphasis</em>, <code>code</code>.</p>",
        '<tr><th scope="row">a&lt;b</th><td>0.5</td></tr>',
        'alt="curves"',
        "<figcaption>Curves.</figcaption>",
        "&lt;/script&gt;",
    ):
        assert part in page
    assert "{{" not in page
