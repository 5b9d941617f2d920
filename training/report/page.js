/* The page of a training: reading the curves, stepping through the grids. dvae.js or prior.js follows. No framework,
   no build.

   data.panels: figure -> lines, each [[where], [values]], `where` ascending. Figures over the same axis (data-across)
   show the same place. */
"use strict";

const $ = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const data = JSON.parse($("data").textContent);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const number = (value) => Math.round(value).toLocaleString("en-US").replace("-", "−");

/** Any number in four figures, as words.py writes it. */
function short(value) {
  const size = Math.abs(value);
  if (size >= 1000) return number(value);
  const text = size > 0 && size < 1e-3 ? value.toExponential(2).replace(/\.?0*e/, "e") : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}

/* ── Curves ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

const panels = all(".panel").map((figure) => ({
  figure, frame: figure.querySelector(".frame"), cross: figure.querySelector(".cross"), outputs: all(".readout b", figure),
  first: Number(figure.dataset.first), last: Number(figure.dataset.last), across: figure.dataset.across, lines: data.panels[figure.dataset.panel],
}));

/** The place in `where` that is nearest to a value. */
function nearest(where, at) {
  let low = 0, high = where.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (where[middle] <= at) low = middle; else high = middle;
  }
  return at - where[low] <= where[high] - at ? low : high;
}

/** What of a figure's lines is nearest to a value. */
const snapped = (panel, at) =>
  panel.lines.map(([where]) => where[nearest(where, at)]).reduce((best, one) => (Math.abs(one - at) < Math.abs(best - at) ? one : best));

/** Shows all figures of an axis at a place, its name over the one that is pointed at; their last values without one. */
function read(across, at, pointed) {
  for (const panel of panels) {
    if (panel.across !== across) continue;
    panel.cross.hidden = at === null;
    panel.lines.forEach(([where, values], line) => {
      panel.outputs[line].textContent = short(values[at === null ? values.length - 1 : nearest(where, at)]);
    });
    if (at === null) continue;
    panel.cross.style.left = `${(100 * (at - panel.first)) / (panel.last - panel.first)}%`;
    if (panel === pointed) panel.cross.dataset.at = `${across} ${number(at)}`; else delete panel.cross.dataset.at;
  }
}

for (const panel of panels) {
  let at = null;
  const show = (place) => { at = snapped(panel, clamp(place, panel.first, panel.last)); read(panel.across, at, panel); };
  const leave = () => { at = null; read(panel.across, null); };
  panel.frame.addEventListener("pointermove", (event) => {
    const box = panel.frame.getBoundingClientRect();
    show(panel.first + ((event.clientX - box.left) / box.width) * (panel.last - panel.first));
  });
  panel.frame.addEventListener("pointerleave", leave);
  panel.frame.addEventListener("blur", leave);
  panel.frame.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    show((at ?? panel.last) + (by * (panel.last - panel.first)) / 100);
  });
}

/* ── Grids ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

const frames = all(".film button");

/** Has `show` show an evaluation's grid: the last one, then the one that is chosen. */
function slide(show) {
  const turn = (place) => {
    const frame = frames[place], step = frame.dataset.step;
    show(frame.querySelector("img"), step);
    $("time-step").textContent = step;
    $("time").value = place;
    frames.forEach((one) => one.setAttribute("aria-current", String(one === frame)));
  };
  if (!frames.length) return;
  $("time").addEventListener("input", () => turn(Number($("time").value)));
  frames.forEach((frame, place) => frame.addEventListener("click", () => turn(place)));
  addEventListener("resize", () => turn(Number($("time").value)));
  turn(frames.length - 1);
}
