import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.report import figures
from chexseg_jax.report.figures import COLOURS, draw_curves, draw_masks, draw_overlays


def test_a_mask_is_drawn_where_it_is_in_its_task_colour():
    masks = np.zeros((40, 40, 10), bool)
    masks[10:30, 5:20, TASKS.index("Edema")] = True
    figure = Figure(figsize=(4, 4), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(np.full((40, 40), 128, np.uint8), cmap="gray", vmin=0, vmax=255)
    axis.axis("off")
    assert draw_masks(axis, masks) == {TASKS.index("Edema")}
    FigureCanvasAgg(figure).draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    drawn = drawn.reshape(40, 10, 40, 10, 3).mean((1, 3))
    tint = 0.18 * np.array(to_rgb(COLOURS["Edema"])) + 0.82 * 128 / 255
    np.testing.assert_allclose(drawn[20, 12], tint, atol=0.02)
    np.testing.assert_allclose(drawn[20, 30], 128 / 255, atol=0.01)


def test_overlays_and_curves_are_pictures(tmp_path):
    masks = np.zeros((2, 16, 16, 10), bool)
    masks[0, 4:8, 4:8, :3] = True
    images = [np.full((16, 16), 90, np.uint8)] * 2
    columns = [("ground truth", [masks[0], None]), ("prediction", [masks[1], masks[0]])]
    draw_overlays(tmp_path / "overlays.png", images, ["a", "b"], columns, title="two")
    lines = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5}, {"step": 20, "miou": 0.2}]
    draw_curves(tmp_path / "curves.png", {"classifier": lines, "segmentation": lines})
    for name in ("overlays", "curves"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert pixels.std() > 5


def test_measures_of_the_training_batches_are_not_called_the_validation_images(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        figures, "save", lambda figure, _: titles.extend(a.get_title(loc="left") for a in figure.axes)
    )
    judged = [{"step": 10, "loss": 1.0}, {"step": 10, "miou": 0.2}]
    draw_curves(tmp_path / "x.png", {"a": judged, "moco": [{"step": 10, "loss": 1.0, "top1": 0.3}]})
    assert titles == ["a", "on the validation images", "moco", "on the training batches"]


def test_every_task_has_its_own_colour():
    assert len(set(COLOURS.values())) == len(TASKS) == len(COLOURS)
