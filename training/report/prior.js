/* Of a prior's page: its samples, and the map of the gradient scales. Follows page.js.

   data.scales: columns of equal widths, the step and the blocks' log2 of each; the span of the colours. */

slide((image) => {
  document.querySelector(".cells").hidden = false;
  all(".cell img").forEach((part) => { part.src = image.src; });
});

/* ── Scales ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function heat({ steps, values, low, high, limit, ramp }) {
  const canvas = $("heat"), context = canvas.getContext("2d"), blocks = values[0].length;
  const cross = canvas.parentElement.querySelector(".cross"), row = canvas.parentElement.querySelector(".row");
  const stops = ramp.map(rgb);
  let at = null; // column and block
  [canvas.width, canvas.height] = [steps.length, blocks];

  /** The colour between two stops. */
  function colour(value) {
    const place = clamp((value - low) / (high - low), 0, 1) * (stops.length - 1);
    const stop = Math.min(Math.floor(place), stops.length - 2), part = place - stop;
    return stops[stop].map((first, channel) => first + part * (stops[stop + 1][channel] - first));
  }

  function draw() {
    const limited = rgb(getComputedStyle(document.documentElement).getPropertyValue("--bad").trim());
    const image = context.createImageData(steps.length, blocks);
    values.forEach((column, x) => column.forEach((value, block) => {
      image.data.set([...(value <= limit ? limited : colour(value)), 255], 4 * (block * steps.length + x));
    }));
    context.putImageData(image, 0, 0);
  }

  function point(column, block) {
    at = [clamp(column, 0, steps.length - 1), clamp(block, 0, blocks - 1)];
    [column, block] = at;
    const part = block % 2 ? "MLP" : "attention";
    $("cell").textContent = `Block ${block}, ${part} of layer ${Math.floor(block / 2) + 1}, step ${number(steps[column])}: 2^${values[column][block].toFixed(2)}`;
    cross.hidden = row.hidden = false;
    cross.style.left = `${(100 * (column + 0.5)) / steps.length}%`;
    cross.dataset.at = `step ${number(steps[column])}`;
    [row.style.top, row.style.height] = [`${(100 * block) / blocks}%`, `${100 / blocks}%`];
    read("step", steps[column]);
  }

  function leave() {
    at = null;
    cross.hidden = row.hidden = true;
    $("cell").textContent = "Point at the map.";
    read("step", null);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    point(...[(event.clientX - box.left) / box.width * steps.length, (event.clientY - box.top) / box.height * blocks].map(Math.floor));
  });
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const from = at ?? [steps.length, 0];
    point(from[0] + by[0], from[1] + by[1]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

if (data.scales) heat(data.scales);
document.documentElement.dataset.ready = "";
