import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from chexseg_jax.data.taxonomy import CHEXPERT, PALETTE, Taxonomy
from chexseg_jax.report import figures
from chexseg_jax.report.figures import draw_curves, draw_masks, draw_overlays, draw_saliency

EDEMA = CHEXPERT.tasks.index("Edema")


def test_a_mask_is_drawn_in_place_in_its_task_colour():
    masks = np.zeros((40, 40, 10), bool)
    masks[10:30, 5:20, EDEMA] = True
    figure = Figure(figsize=(4, 4), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(np.full((40, 40), 128, np.uint8), cmap="gray", vmin=0, vmax=255)
    axis.axis("off")
    assert draw_masks(axis, masks, CHEXPERT.colours) == {EDEMA}
    FigureCanvasAgg(figure).draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    drawn = drawn.reshape(40, 10, 40, 10, 3).mean((1, 3))
    tint = 0.18 * np.array(to_rgb(CHEXPERT.colours[EDEMA])) + 0.82 * 128 / 255
    np.testing.assert_allclose(drawn[20, 12], tint, atol=0.02)
    np.testing.assert_allclose(drawn[20, 30], 128 / 255, atol=0.01)


def test_overlays_saliency_and_curves_are_pictures(tmp_path):
    masks = np.zeros((2, 16, 16, 10), bool)
    masks[0, 4:8, 4:8, :3] = True
    images = [np.full((16, 16), 90, np.uint8)] * 2
    columns = [("ground truth", [masks[0], None]), ("prediction", [masks[1], masks[0]])]
    draw_overlays(tmp_path / "overlays.png", images, ["a", "b"], columns, taxonomy=CHEXPERT, title="two")
    maps = [("map", [np.eye(4, dtype=np.float32)] * 2)]
    draw_saliency(
        tmp_path / "saliency.png", images, ["a", "b"], maps, list(masks), taxonomy=CHEXPERT, title="two"
    )
    lines = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}, {"step": 20, "miou": 0.2}]
    draw_curves(tmp_path / "curves.png", {"classifier": lines, "segmentation": lines})
    for name in ("overlays", "saliency", "curves"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert pixels.std() > 5


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (1, 1)])
def test_a_picture_too_thin_for_an_outline_is_drawn_without_one(shape, tmp_path):
    """Of 3 x 4000 pixels, one row is left; matplotlib's TypeError ended `chexseg saliency` for all images."""
    maps = [("map", [np.ones(shape, np.float32)])]
    image, mask = np.full(shape, 90, np.uint8), np.ones((*shape, 10), bool)
    draw_saliency(tmp_path / "x.png", [image], ["a"], maps, [mask], taxonomy=CHEXPERT, title="thin")
    assert (tmp_path / "x.png").stat().st_size


def test_names_with_dollars_are_drawn_as_they_are(tmp_path, monkeypatch):
    names = ("x$\\frac$", "$x$", "5$ and 6$")
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    masks, images = np.ones((16, 16, 3), bool), [np.full((16, 16), 90, np.uint8)]
    columns = [("c$\\frac$", [masks])]
    draw_overlays(
        tmp_path / "x.png", images, names[:1], columns, taxonomy=Taxonomy(names, names), title="t$\\frac$"
    )
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()  # a formula that does not parse raises
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(names)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_scores_of_training_batches_are_not_attributed_to_validation_images(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        figures, "save", lambda figure, _: titles.extend(a.get_title(loc="left") for a in figure.axes)
    )
    judged = [{"step": 10, "loss": 1.0}, {"step": 10, "miou": 0.2}]
    draw_curves(tmp_path / "x.png", {"a": judged, "moco": [{"step": 10, "loss": 1.0, "top1": 0.3}]})
    assert titles == ["a", "on the validation images", "moco", "on the training batches"]


@pytest.mark.parametrize("columns", [1, 3])
def test_the_legend_of_64_tasks_lies_within_the_picture(columns, tmp_path, monkeypatch):
    names = tuple(f"A rather long name of task {k}" for k in range(64))
    taxonomy = Taxonomy(names, names)
    masks = np.zeros((16, 16, 64), bool)
    masks[4:8, 4:8] = True
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, _: drawn.append(figure))
    images = [np.full((16, 16), 90, np.uint8)]
    draw_overlays(tmp_path / "x.png", images, ["a"], [("c", [masks])] * columns, taxonomy=taxonomy, title="t")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)
    box, width = legend.get_window_extent(), figure.get_size_inches()[0] * figure.dpi
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert figure.axes[0].get_window_extent().height > 0.15 * width  # and the pictures keep their size
    assert box.y1 < figure.axes[0].get_window_extent().y0


def test_the_colours_of_chexpert_are_the_palette():
    assert CHEXPERT.colours == PALETTE[:10]
