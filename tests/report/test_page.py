"""The HTML report in a browser: headless Chromium, as wide as a desktop screen and as a telephone."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexseg_jax.data.chexlocalize import Segmentations, encode_masks
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.report.gallery import Gallery
from chexseg_jax.report.tables import Table
from chexseg_jax.report.writer import Listing, Picture, Report, Section, write_page, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZE, IMAGES, TASKS = 32, 30, CHEXPERT.tasks
TITLE = "table1, laptop scale (a_folder_with_a_name_that_is_wider_than_a_telephone)"
WIDE = Table(
    ["name", *map(str, range(30))], [["**mean**", *["0.123"] * 30]], "A <wide> table & nothing else."
)


@pytest.fixture(scope="module")
def masks():
    rng = np.random.default_rng(0)
    masks = np.zeros((IMAGES, SIZE, SIZE, len(TASKS)), bool)
    for one in masks:
        for k in rng.choice(len(TASKS), 2, replace=False):
            top, left = rng.integers(0, SIZE - 8, 2)
            one[top : top + 8, left : left + 8, k] = True
    return masks


@pytest.fixture(scope="module")
def gallery(masks):
    ids = tuple(f"patient{i:05d}_study1_view1_frontal" for i in range(IMAGES))
    sizes = np.full((IMAGES, 2), SIZE)
    images = np.full((IMAGES, SIZE, SIZE), 128, np.uint8)
    known = np.ones((IMAGES, len(TASKS)), bool)
    known[2] = masks[2].any((0, 1))
    prepared = Prepared(ids, images, np.zeros((IMAGES, 14)), sizes, CHEXPERT, pack_masks(masks), known)
    marked = masks.copy()
    marked[1] = True  # false positives
    marked[2] = True  # of unknown tasks, so not false positives
    moved = {i: encode_masks(np.roll(mask, 2, 0), CHEXPERT) for i, mask in zip(ids, marked, strict=True)}
    mean = np.linspace(0.9, 0.1, IMAGES)
    each = np.where(masks.any((1, 2)), mean[::-1, None], np.nan)  # in the opposite order of the means
    scores = np.concatenate([each, mean[:, None]], axis=1)
    source = "semi-supervised"
    return Gallery(
        prepared,
        {source: Segmentations(Path("synthetic"), moved)},
        {source: "p = 0.9, trial 0"},
        {source: scores},
        "Synthetic image",
    )


def picture(folder):
    path = folder / "fig2.png"
    Image.new("RGB", (1400, 500), "white").save(path)
    return Picture(path, "Figure 2", "Bars: 95 %.")


@pytest.fixture(scope="module")
def page_file(gallery, tmp_path_factory):
    """A table's page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    sections = [Section("Tables", [WIDE]), Section("Figures", [picture(path.parent)])]
    write_page(path, Report(TITLE, ["**On the phantom.**"], sections), gallery)
    return path


@pytest.fixture(scope="module", params=["with a gallery", "without"])
def run_file(request, gallery, tmp_path_factory):
    """A single run's page."""
    folder = tmp_path_factory.mktemp("run")
    blocks = ["Text with *emphasis* and `code`.", WIDE, picture(folder), Listing("Configuration", '{"a": 1}')]
    report = Report(TITLE, ["**On the phantom.**"], [Section("How it was made", blocks)])
    write_report(folder, report, gallery if request.param == "with a gallery" else None)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, width):
    """The page; at the end its console must be empty, and no request may have left the file."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or messages.append(request.url),
    )
    page.goto(path.as_uri())
    yield page
    page.close()
    assert messages == []


@pytest.fixture(params=[1280, 400])
def page(request, browser, page_file):
    with opened(browser, page_file, request.param) as page:
        yield page


def names(page) -> list[str]:
    return [text.rsplit("\n", 1)[-1] for text in page.locator(".card").all_inner_texts()]


def test_of_many_images_a_page_shows_some_and_says_so(gallery, tmp_path, monkeypatch):
    """NIH's 25,596 test images would be half a gigabyte."""
    monkeypatch.setattr("chexseg_jax.report.gallery._MOST", 10)
    write_page(tmp_path / "page.html", Report(TITLE, [], []), gallery)
    text = (tmp_path / "page.html").read_text()
    assert "10 of the 30 test images, taken evenly, with their masks." in text
    ids = [image["id"] for image in gallery.data()["images"]]
    assert len(ids) == 10
    assert {"patient00000_study1_view1_frontal", "patient00029_study1_view1_frontal"} <= set(ids)


def test_images_are_sorted_filtered_and_shown_a_page_at_a_time(page, masks):
    assert page.locator(".card").count() == 24
    assert names(page)[0] == f"patient{IMAGES - 1:05d}_study1_view1_frontal"  # the lowest score
    page.get_by_text("Show more").click()
    assert page.locator(".card").count() == IMAGES
    assert page.get_by_text("Show more").is_hidden()
    assert page.evaluate("document.activeElement === document.querySelectorAll('.card')[24]")
    page.locator("#order").select_option("by name")
    assert names(page)[0] == "patient00000_study1_view1_frontal"
    page.locator("#filter").select_option("ground truth marks Edema")
    shown = masks.any((1, 2))[:, TASKS.index("Edema")].sum()
    assert page.get_by_role("status").inner_text() == f"{shown} of {shown} images"
    page.locator("#filter").select_option("ground truth marks none")
    assert page.get_by_role("status").inner_text() == "0 of 0 images"
    page.locator("#filter").select_option("false positives")
    assert page.get_by_role("status").inner_text() == "1 of 1 images"


def test_with_one_pathology_images_are_sorted_by_its_score(page, masks):
    page.locator("#filter").select_option("ground truth marks Edema")
    rows = np.flatnonzero(masks.any((1, 2))[:, TASKS.index("Edema")])
    assert names(page) == [
        f"patient{row:05d}_study1_view1_frontal" for row in rows
    ]  # the means are in the opposite order
    lowest = 0.1 + 0.8 * rows[0] / (IMAGES - 1)
    assert f"IoU of Edema: semi-supervised {lowest:.3f}" in page.locator(".card").first.inner_text()


def test_masks_are_drawn_where_they_are(page, masks):
    page.locator("#order").select_option("by name")
    page.locator("#source").select_option("ground truth")
    pixels = "c => [c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.width).data]"
    canvas = page.locator(".card canvas").first
    assert canvas.get_attribute("aria-label").startswith("Synthetic image patient00000")
    canvas.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.card canvas').width == 64")
    width, *rgba = canvas.evaluate(pixels)
    drawn = np.array(rgba).reshape(width, width, 4)[::2, ::2, :3]
    np.testing.assert_array_equal((drawn != 128).any(-1), masks[0].any(-1))
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    assert canvas.get_attribute("aria-label").endswith("masks by ground truth: none (2 hidden)")
    canvas.scroll_into_view_if_needed()
    page.wait_for_function(
        f"new Set(({pixels})(document.querySelector('.card canvas')).slice(1)).size == 2"  # grey and opaque
    )
    assert set(canvas.evaluate(pixels)[1:]) == {128, 255}


def test_canvases_hold_pixels_only_while_in_view(page):
    page.set_viewport_size({"width": 400, "height": 300})
    first = page.locator(".card canvas").first
    for target, side in ((".card", 2 * SIZE), ("#more", 1), (".card", 2 * SIZE)):
        page.locator(target).first.scroll_into_view_if_needed()
        page.wait_for_function(
            "([canvas, side]) => canvas.width === side", arg=[first.element_handle(), side]
        )


def test_the_keyboard_opens_turns_and_closes(page):
    card = page.locator(".card").first
    card.focus()
    page.keyboard.press("Enter")
    title = page.locator("#large-title")
    assert title.inner_text().endswith("(1 of 30)")
    page.keyboard.press("ArrowRight")
    assert title.inner_text().endswith("(2 of 30)")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert title.inner_text().endswith("(30 of 30)")
    assert page.locator("#panes figcaption").all_inner_texts()[1] == "ground truth"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert title.inner_text().endswith("(2 of 30)")
    box = page.locator("#legend input").first
    box.focus()
    page.keyboard.press("Space")
    assert not box.is_checked()
    page.keyboard.press("ArrowRight")  # the next image may lack this checkbox; the focus stays in the dialog
    assert title.inner_text().endswith("(3 of 30)")
    assert page.evaluate("document.querySelector('#large').contains(document.activeElement)")
    page.keyboard.press("Alt+ArrowRight")
    assert title.inner_text().endswith("(3 of 30)")
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()
    # The close event fires a moment after the dialog has closed.
    page.wait_for_function("document.activeElement === document.querySelectorAll('.card')[2]")


def test_the_large_view_scores_each_task_and_hides_its_masks(page, masks):
    page.locator("#order").select_option("by name")
    page.locator(".card").first.click()
    marked = [TASKS[k] for k in np.flatnonzero(masks[0].any((0, 1)))]
    lines = [text.split("\t") for text in page.locator("#legend tbody tr").all_inner_texts()]
    assert [(name.strip(), score) for name, score in lines] == [
        *((task, "0.100") for task in marked),
        ("mean", "0.900"),
    ]
    truth = page.locator("#panes canvas").nth(1)
    tinted = """[...document.querySelectorAll('#panes canvas')[1].getContext('2d').getImageData(0, 0, 64, 64).data]
        .some((value, i) => i % 4 < 3 && value !== 128)"""
    truth.scroll_into_view_if_needed()
    page.wait_for_function(f"document.querySelectorAll('#panes canvas')[1].width == 64 && {tinted}")
    for task in marked:
        page.locator("#legend").get_by_label(task).uncheck()
        assert not page.locator("#tasks").get_by_label(task).is_checked()
    truth.scroll_into_view_if_needed()
    page.wait_for_function(f"!{tinted}")


def test_the_large_view_is_large_and_names_the_data(page):
    card = page.locator(".card canvas").first
    width = card.bounding_box()["width"]
    card.click()
    assert page.locator("#panes canvas").first.bounding_box()["width"] > 1.4 * width
    assert TITLE in page.locator("#large").inner_text()
    assert page.locator("#panes figcaption").first.inner_text() == "Synthetic image"


def test_an_unknown_mask_is_called_not_annotated(page, masks):
    page.locator("#order").select_option("by name")
    page.locator(".card").nth(2).click()
    rows = page.locator("#legend tbody tr").all_inner_texts()
    unknown = {row.split("(")[0].strip() for row in rows if "(not annotated)" in row}
    assert unknown == {TASKS[k] for k in np.flatnonzero(~masks[2].any((0, 1)))}


def assert_accessible(page):
    """Nothing is wider than the screen, and every control and picture has a name."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('img, canvas, button, select, input, summary')].filter((e) => !(
            e.alt || e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"""
    )
    assert unnamed == 0


def test_nothing_is_wider_than_the_screen_and_everything_has_a_name(page):
    assert_accessible(page)
    page.locator(".card").first.click()
    assert_accessible(page)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_run(browser, run_file, width):
    with opened(browser, run_file, width) as page:
        page.locator("summary").click()
        assert page.locator("pre").inner_text() == '{"a": 1}'
        assert page.locator("section em").first.inner_text() == "emphasis"
        assert page.locator("nav a").first.get_attribute("href") == "#how-it-was-made"
        assert_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, page_file, scheme):
    """WCAG 2.2 AA: 4.5 to 1."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(page_file.as_uri())
    colours = page.evaluate(
        """['body', '.card .text', 'a[href="#tables"]', '#controls label', 'thead th', 'select'].map((s) => {
            let e = document.querySelector(s), ground = e;
            const at = (n) => getComputedStyle(n).backgroundColor;
            while (at(ground) === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
            return [getComputedStyle(e).color, at(ground)];
        })"""
    )
    page.close()
    for text, ground in colours:
        lighter, darker = sorted(map(luminance, (text, ground)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def luminance(colour: str) -> float:
    channels = np.array([int(c) for c in colour.strip("rgb()").split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
