"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const PAGE = 24;
  const shownTasks = new Set(data.tasks.keys());
  let order = [], visible = PAGE, opened = -1;

  // COCO's run lengths: five bits per character, column by column; from the fourth run on, differences to the run
  // before last.
  function decode(code) {
    const mask = new Uint8Array(data.size * data.size), runs = [];
    for (let i = 0; i < code.length;) {
      let value = 0, shift = 0, byte;
      do {
        byte = code.charCodeAt(i++) - 48;
        value |= (byte & 31) << shift;
        shift += 5;
      } while (byte & 32);
      if (byte & 16) value |= -1 << shift;
      if (runs.length > 2) value += runs[runs.length - 2];
      runs.push(value);
    }
    let start = 0, on = 0;
    for (const run of runs) {
      if (on) mask.fill(1, start, start + run);
      start += run;
      on = 1 - on;
    }
    return mask;
  }

  const pictures = new Map();
  function picture(row) {
    if (!pictures.has(row)) {
      const image = new Image();
      image.src = "data:image/jpeg;base64," + data.images[row].jpeg;
      pictures.set(row, image.decode().then(() => image));
    }
    return pictures.get(row);
  }

  async function draw(canvas, row, source) {
    const stamp = canvas.stamp = {};
    const image = await picture(row);
    if (canvas.stamp !== stamp) return;  // a later call draws this canvas
    const S = data.size, scale = 2, side = S * scale;
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, side, side);
    if (!source) return;
    const pixels = context.getImageData(0, 0, side, side);
    const coded = Object.entries(data.images[row].masks[source]).filter(([k]) => shownTasks.has(Number(k)));
    const masks = coded.map(([k, code]) => [Number(k), decode(code)]);
    masks.sort((a, b) => area(b[1]) - area(a[1]));  // small masks on top
    for (const [k, mask] of masks) tint(pixels.data, mask, data.tasks[k].colour, S, scale);
    context.putImageData(pixels, 0, 0);
  }

  const area = (mask) => mask.reduce((sum, x) => sum + x, 0);

  function tint(rgba, mask, colour, S, scale) {
    const rgb = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    const side = S * scale;
    const inside = (y, x) => y >= 0 && x >= 0 && y < side && x < side
      && mask[Math.floor(x / scale) * S + Math.floor(y / scale)];
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        if (!inside(y, x)) continue;
        const edge = !inside(y - 1, x) || !inside(y + 1, x) || !inside(y, x - 1) || !inside(y, x + 1);
        const weight = edge ? 1 : 0.22, i = 4 * (y * side + x);
        for (let c = 0; c < 3; c++) rgba[i + c] = rgba[i + c] * (1 - weight) + rgb[c] * weight;
      }
    }
  }

  const marked = (row, source) => Object.keys(data.images[row].masks[source] ?? {}).map(Number);
  const named = (tasks) => tasks.map((k) => data.tasks[k].name).join(", ");
  const format = (score) => score === null ? "-" : score.toFixed(3);
  const MEAN = data.tasks.length;  // an image's scores end with their mean
  const scoredTask = () => Number.isNaN(parseInt(at("filter").value)) ? MEAN : parseInt(at("filter").value);
  function alt(row, source) {
    const picture = `${data.picture} ${data.images[row].id}`;
    if (!source) return picture;
    const all = marked(row, source), on = all.filter((k) => shownTasks.has(k));
    const off = all.length > on.length ? ` (${all.length - on.length} hidden)` : "";
    return `${picture}, masks by ${source}: ${named(on) || "none"}${off}`;
  }

  // A canvas holds pixels only while it is in view: those of five hundred images are a gigabyte.
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) draw(target, Number(target.dataset.row), target.dataset.source);
      else { target.stamp = {}; target.width = target.height = 1; }
    }
  }, { rootMargin: "300px" });

  function paint(canvas, row, source) {
    Object.assign(canvas.dataset, { row, source });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", alt(row, source));
    watcher.unobserve(canvas);
    watcher.observe(canvas);
  }

  function card(row) {
    const { id, scores } = data.images[row];
    const canvas = make("canvas", { width: data.size, height: data.size });
    paint(canvas, row, at("source").value);
    const k = scoredTask(), measure = k === MEAN ? "mean IoU" : `IoU of ${data.tasks[k].name}`;
    const each = Object.entries(scores).map(([source, values]) => `${source} ${format(values[k])}`).join(", ");
    const text = make("span", { className: "text" }, make("b", { textContent: named(marked(row, data.truth)) || "nothing marked" }),
      make("br"), `${measure}: ${each}`, make("br"), id);
    const button = make("button", { className: "card", type: "button" }, canvas, text);
    button.addEventListener("click", () => open(order.indexOf(row)));
    return make("li", {}, button);
  }

  // Whether the filter admits an image; its value may be the number of a task.
  function passes(row) {
    const filter = at("filter").value, truth = marked(row, data.truth), { unknown } = data.images[row];
    if (filter === "") return true;
    if (filter === "none") return !truth.length;
    if (filter === "false") return marked(row, at("source").value).some((k) => !truth.includes(k) && !unknown.includes(k));
    return truth.includes(Number(filter));
  }

  function arrange() {
    const [by, direction] = at("order").value.split("|");
    order = [...data.images.keys()].filter(passes);
    const sign = direction === "down" ? -1 : 1;
    const key = (row) => by === "id" ? data.images[row].id : data.images[row].scores[by][scoredTask()];
    order.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);  // images without a score come last
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
    visible = PAGE;
    at("cards").replaceChildren();
    fill();
  }

  function fill() {
    const cards = at("cards");
    cards.append(...order.slice(cards.children.length, visible).map(card));
    at("count").textContent = `${cards.children.length} of ${order.length} images`;
    at("more").hidden = visible >= order.length;
  }

  function repaint() {
    for (const canvas of document.querySelectorAll("#cards canvas")) paint(canvas, Number(canvas.dataset.row), at("source").value);
    for (const canvas of document.querySelectorAll("#panes canvas")) paint(canvas, Number(canvas.dataset.row), canvas.dataset.source);
  }

  function open(index) {
    opened = (index + order.length) % order.length;
    const row = order[opened], { id } = data.images[row];
    at("large-title").textContent = `${id} (${opened + 1} of ${order.length})`;
    panes(row);
    const focused = document.activeElement?.dataset.task;
    legend(row);
    if (focused) (at("legend").querySelector(`[data-task="${focused}"]`) ?? at("next")).focus();
    if (!at("large").open) at("large").showModal();
  }

  function panes(row) {
    const { scores } = data.images[row];
    at("panes").replaceChildren(...["", ...data.sources].map((source) => {
      const canvas = make("canvas");
      paint(canvas, row, source);
      const score = source in scores ? `, mean IoU ${format(scores[source][MEAN])}` : "";
      return make("figure", {}, canvas, make("figcaption", { textContent: (source || data.picture) + score }));
    }));
  }

  // A row for each task marked on an image: a checkbox that shows or hides its masks, and the IoU of each source.
  function legend(row) {
    const { scores, unknown } = data.images[row];
    const drawn = [...data.tasks.keys()].filter((k) => data.sources.some((source) => marked(row, source).includes(k)));
    const title = (text) => make("th", { scope: "col", textContent: text });
    const line = (k, ...first) => make("tr", {}, make("th", { scope: "row" }, ...first),
      ...scored.map((source) => make("td", { textContent: format(scores[source][k]) })));
    at("legend").replaceChildren(
      make("thead", {}, make("tr", {}, ...["IoU", ...scored].map(title))),
      make("tbody", {}, ...drawn.map((k) => line(k, box(k), unknown.includes(k) ? " (not annotated)" : "")), line(MEAN, "mean")));
  }

  // The checkboxes of a task, in the gallery's controls and in the large view, change together.
  function box(k) {
    const input = make("input", { type: "checkbox", checked: shownTasks.has(k) });
    input.dataset.task = k;
    input.addEventListener("change", () => {
      input.checked ? shownTasks.add(k) : shownTasks.delete(k);
      for (const other of document.querySelectorAll(`[data-task="${k}"]`)) other.checked = input.checked;
      repaint();
    });
    return make("label", {}, input, swatch(k), data.tasks[k].name);
  }

  const swatch = (k) => {
    const square = make("span", { className: "swatch" });
    square.style.background = data.tasks[k].colour;
    return square;
  };
  const option = (value, text) => make("option", { value, textContent: text });

  at("source").append(...data.sources.map((source) => option(source, source)), option("", "none (image alone)"));
  if (data.sources.length > 1) at("source").value = data.sources[1];
  at("filter").append(option("", "all images"),
    ...data.tasks.map(({ name }, k) => option(String(k), `ground truth marks ${name}`)),
    option("none", "ground truth marks none"), option("false", "false positives"));
  const scored = data.sources.filter((source) => source in data.images[0].scores);
  at("order").append(
    ...scored.flatMap((source) => [option(`${source}|up`, `${source}: lowest IoU first`), option(`${source}|down`, `${source}: highest IoU first`)]),
    option("id|up", "by name"));
  at("tasks").append(...[...data.tasks.keys()].map(box));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("source").addEventListener("change", () => at("filter").value === "false" ? arrange() : repaint());
  for (const id of ["filter", "order"]) at(id).addEventListener("change", arrange);
  at("more").addEventListener("click", () => {
    const first = visible;
    visible += PAGE;
    fill();
    at("cards").children[first].firstChild.focus();  // the button may be hidden now
  });
  at("previous").addEventListener("click", () => open(opened - 1));
  at("next").addEventListener("click", () => open(opened + 1));
  at("close").addEventListener("click", () => at("large").close());
  at("large").addEventListener("close", () => at("cards").children[opened]?.firstChild.focus());
  at("large").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches(".wide")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); open(opened + step); }
  });
  arrange();
})();
