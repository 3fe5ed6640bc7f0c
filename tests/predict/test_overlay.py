import numpy as np
import pytest
from PIL import ImageColor

from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.predict.overlay import draw_overlay


def colours_of(pixels):
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("width", [100, 640])
def test_each_task_that_is_present_is_in_the_legend(width):
    image = np.full((200, width), 90, np.uint8)
    mask = np.zeros(image.shape, bool)
    mask[50:100, 30:60] = True
    shown = CHEXPERT.tasks[1:]
    drawn = np.asarray(draw_overlay(image, dict.fromkeys(shown, mask), CHEXPERT, "a"))
    legend = colours_of(drawn[24 + 200 :])
    for task, colour in zip(CHEXPERT.tasks, CHEXPERT.colours, strict=True):
        assert (ImageColor.getrgb(colour) in legend) == (task in shown), task


def test_64_tasks_fit():
    tasks = tuple(f"Task {k}" for k in range(64))
    taxonomy = Taxonomy(labels=tasks, tasks=tasks, colours=tuple(f"#ff{4 * k:02x}00" for k in range(64)))
    mask = np.ones((20, 20), bool)
    drawn = np.asarray(draw_overlay(np.zeros((20, 20), np.uint8), dict.fromkeys(tasks, mask), taxonomy, "a"))
    assert {ImageColor.getrgb(colour) for colour in taxonomy.colours} <= colours_of(drawn[44:])


def test_a_mask_is_outlined_and_tinted_where_it_is():
    image = np.full((200, 300), 100, np.uint8)
    mask = np.zeros(image.shape, bool)
    mask[50:100, 30:60] = True
    drawn = np.asarray(draw_overlay(image, {"Edema": mask}, CHEXPERT, "a"))[24:224]
    colour = np.array(ImageColor.getrgb(CHEXPERT.colours[CHEXPERT.tasks.index("Edema")]))
    assert (drawn[:, :300] == 100).all()
    beside = drawn[:, 308:]
    assert (beside[~mask] == 100).all()
    assert (beside[50, 30:60] == colour).all()
    np.testing.assert_allclose(
        beside[60:90, 40:50], np.broadcast_to(0.82 * 100 + 0.18 * colour, (30, 10, 3)), atol=1
    )


def test_an_image_without_a_mask_says_so():
    image = np.zeros((20, 300), np.uint8)
    nothing = np.asarray(draw_overlay(image, {}, CHEXPERT, "a"))
    assert nothing[44:].max() == 255
