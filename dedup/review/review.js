/* The review's page: no framework, no build. Served by `gesso review` it saves the decision there; opened as a file, in
   the browser. Captions, keys and links are set as text, never as markup.

   N references in the order of the page ("items"), P pairs, the pairs of item i from starts[i] to starts[i + 1], the
   nearest first. `view` holds the items that pass the filter, `at` is a position in it, `rank` counts from 0. */
"use strict";

const FORMAT = 1;
const SERVED = location.protocol !== "file:";
const START = 0.9; // the threshold before anyone has chosen one, where none is suggested
const NEAR = 0.02; // similarity around the threshold that counts as near it
const HASH_NEAR = 10; // of 64 bits: up to here a perceptual hash usually means the same picture
const HIGHEST = 16e6; // pixels that a browser can scroll; Firefox's limit is 17.9 million
const OVERSCAN = 2; // rows drawn above and below the visible ones
const FAST = 3; // rows scrolled in one frame, above which pictures are loaded only when scrolling ends
const DETAILS_KEPT = 24; // chunks of details in memory
const HISTORY = 5000; // steps that can be undone
const RETRY = 2000; // milliseconds until a failed request is repeated
const Z = 1.959963984540054; // standard normal quantile of 0.975
const NONE = 0, DUPLICATE = 1, DIFFERENT = 2;
const WORDS = ["", "duplicate", "different"];
const REASONS = {
  absent: "is no longer where it was embedded", unreadable: "could not be read", not_an_image: "is not an image file", undecodable: "could not be decoded",
};

const $ = (id) => document.getElementById(id);
const grouped = new Intl.NumberFormat("en-GB");
const number = (value) => grouped.format(value);
const percent = (part) => (part > 0 && part < 0.0005 ? "<0.1%" : `${(100 * part).toFixed(1)}%`);
const shown = (value) => value.toFixed(6).replace(/0{1,3}$/, ""); // 0.900, 0.8312
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

/* Values that do not change are not set: setting them would cause a new layout. */
const put = (node, text) => { const value = String(text ?? ""); if (node.textContent !== value) node.textContent = value; };
const attr = (node, name, value) => { const text = String(value); if (node.getAttribute(name) !== text) node.setAttribute(name, text); };
const dress = (node, name) => { if (node.className !== name) node.className = name; };

/* ── Scripts that call gesso(name, value) ─────────────────────────────────────────────────────────────────────────── */

let delivered = null;
window.gesso = (name, value) => { delivered = [name, value]; };

/** Loads a data script and resolves to its value; rejects where there is no such file. */
function load(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = path;
    script.onload = () => { script.remove(); resolve(delivered[1]); }; // fired in the task that ran the script
    script.onerror = () => { script.remove(); reject(new Error(`${path} could not be loaded`)); };
    document.head.append(script);
  });
}

function unpack(text, kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return new kind(bytes.buffer);
}

/* ── State ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

let data; // the value of pairs.js, its arrays unpacked
let texts; // keys, captions, nearest captions, by item
let sampleKeys, shards; // by sample
let N = 0, P = 0, starts, ownerOf, itemOf;
let matched; // Int32Array, by pair: the view of the reference that is as similar, 0 the whole; null: all are the whole
let verdicts; // Uint8Array, by pair
let judgedIn; // Uint16Array: how many pairs of an item are judged
let threshold = START;
let decided = false; // whether anyone has chosen a threshold or judged a pair
let view; // Int32Array of items
let at = 0, rank = 0;
let advancing = true;
const details = new Map(); // chunk → its details, or the promise of them
const done = [], undone = []; // steps

const pairOf = (item, place) => starts[item] + place;
const current = () => (view.length ? view[at] : -1);
const currentPair = () => (view.length ? pairOf(view[at], rank) : -1);
const viewOf = (pair) => (matched && matched[pair] ? data.views[matched[pair]] : null);
const matchedText = (pair) => (viewOf(pair) ? `matched: ${viewOf(pair).name}` : "");
const isDuplicate = (pair) => (verdicts[pair] ? verdicts[pair] === DUPLICATE : data.similarity[pair] >= threshold);

/* ── Consequences of the decision ───────────────────────────────────────────────────────────────────────────────── */

function setVerdict(pair, verdict) {
  judgedIn[ownerOf[pair]] += Boolean(verdict) - Boolean(verdicts[pair]);
  verdicts[pair] = verdict;
}

/** All counts of the panel. Pairs under the threshold are skipped for items without a verdict. */
function tally() {
  const dropped = new Uint8Array(data.distinct), similarity = data.similarity;
  const totals = { references: 0, samples: 0, pairs: 0, judged: [0, 0, 0], over: [0, 0, 0], lowest: -1, highest: -1 };
  for (let item = 0; item < N; item++) {
    const before = totals.pairs, end = starts[item + 1], judged = judgedIn[item];
    for (let pair = starts[item]; pair < end; pair++) {
      const verdict = verdicts[pair], over = similarity[pair] >= threshold;
      if (!over && !judged) break;
      if (verdict) judge(totals, pair, verdict, over);
      if (verdict ? verdict !== DUPLICATE : !over) continue;
      totals.pairs++;
      if (!dropped[data.samples[pair]]) totals.samples += dropped[data.samples[pair]] = 1;
    }
    if (totals.pairs > before) totals.references++;
  }
  return totals;
}

function judge(totals, pair, verdict, over) {
  totals.judged[verdict]++;
  if (over) totals.over[verdict]++;
  const similarity = data.similarity;
  if (verdict === DUPLICATE && (totals.lowest < 0 || similarity[pair] < similarity[totals.lowest])) totals.lowest = pair;
  if (verdict === DIFFERENT && (totals.highest < 0 || similarity[pair] > similarity[totals.highest])) totals.highest = pair;
}

/** Wilson's score interval of 95%, as in dedup/decision.py. */
function share(hits, total) {
  if (!total) return { hits: 0, total: 0, low: 0, high: 1 };
  const part = hits / total, weight = (Z * Z) / total, middle = (part + weight / 2) / (1 + weight);
  const half = (Z / (1 + weight)) * Math.sqrt((part * (1 - part)) / total + weight / (4 * total));
  return { hits, total, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/* ── Panel ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

let pending = false;
/** Redraws panel, histogram and rows, once, in the next frame. */
function refresh() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; drawRows(true); drawPanel(); if ($("compare").open) drawCompare(); });
}

function drawPanel() {
  const totals = tally();
  if (document.activeElement !== $("threshold")) $("threshold").value = shown(threshold);
  $("slider").value = threshold;
  $("slider").setAttribute("aria-valuetext", `${shown(threshold)}, ${number(totals.references)} references left out`);
  fill("left-out", totals.references, N);
  fill("dropped", totals.samples, data.samples_searched);
  fill("pairs", totals.pairs, P);
  const [, same, other] = totals.judged;
  $("judged").textContent = number(same + other);
  $("judged-split").replaceChildren(...split(same, other));
  drawShare("precision", share(totals.over[DUPLICATE], totals.over[DUPLICATE] + totals.over[DIFFERENT]));
  drawShare("misses", share(same - totals.over[DUPLICATE], same));
  drawEnd("lowest", totals.lowest);
  drawEnd("highest", totals.highest);
  $("undo").disabled = !done.length;
  $("redo").disabled = !undone.length;
  $("advance").textContent = advancing ? "next pair" : "same pair";
  drawHistogram();
}

function fill(name, count, total) {
  put($(name), number(count));
  put($(`${name}-share`), total ? percent(count / total) : "–");
}

function split(same, other) {
  if (!same && !other) return ["No pair yet.", element("span", " Press d or x to judge the current pair.", "keyboard")];
  return [element("b", `${number(same)} duplicate`, "dup"), " · ", element("b", `${number(other)} different`, "diff"), ` of ${number(P)}`];
}

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function drawShare(name, rate) {
  $(name).textContent = rate.total ? percent(rate.hits / rate.total) : "–";
  $(`${name}-interval`).textContent = rate.total ? `${Math.round(100 * rate.low)}–${Math.round(100 * rate.high)}%` : "";
  const bar = $(`${name}-drawn`), range = element("i"), dot = element("b");
  bar.parentElement.title = rate.total ? `${number(rate.hits)} of ${number(rate.total)} judged; interval of 95%: ${percent(rate.low)} to ${percent(rate.high)}` : "";
  range.style.left = `${100 * rate.low}%`;
  range.style.width = `${100 * (rate.high - rate.low)}%`;
  dot.style.left = `${(100 * rate.hits) / (rate.total || 1)}%`;
  bar.replaceChildren(...(rate.total ? [range, dot] : []));
}

function drawEnd(name, pair) {
  $(name).disabled = pair < 0;
  $(name).dataset.pair = pair;
  $(name).textContent = pair < 0 ? "–" : data.similarity[pair].toFixed(4);
}

/* ── Histogram ────────────────────────────────────────────────────────────────────────────────────────────────────── */

const INSET = 8; // pixels: half of the slider's thumb, which ends there
const BASE = 42; // pixels under the bars: judged pairs, axis
let lowest = 0, bins = null;
const chart = { size: [0, 0], colours: {} };

/** Reads size and colours from the style sheet, which causes a layout: only after the size or the scheme has changed. */
function readChart() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["--dup", "--diff", "--plain", "--line", "--soft"]) chart.colours[name] = style.getPropertyValue(name).trim();
  chart.size = [$("histogram").clientWidth, $("histogram").clientHeight];
  drawHistogram();
}

function countBins(wide) {
  const many = Math.max(20, Math.floor(wide / 4));
  if (bins && bins.many === many) return;
  const nearest = new Uint32Array(many), all = new Uint32Array(many);
  const binOf = (similarity) => clamp(Math.floor(((similarity - lowest) / (1 - lowest)) * many), 0, many - 1);
  for (let pair = 0; pair < P; pair++) all[binOf(data.similarity[pair])]++;
  for (let item = 0; item < N; item++) nearest[binOf(data.similarity[starts[item]])]++;
  bins = { many, nearest, all, most: all.reduce((one, other) => Math.max(one, other), 1) };
}

function drawHistogram() {
  const canvas = $("histogram"), ratio = devicePixelRatio || 1;
  const [width, height] = chart.size, wide = width - 2 * INSET, high = height - BASE;
  if (wide < 20) return;
  countBins(wide);
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const pen = canvas.getContext("2d"), colour = (name) => chart.colours[name];
  const scale = $("log").checked ? (count) => Math.log1p(count) / Math.log1p(bins.most) : (count) => count / bins.most;
  const xOf = (similarity) => INSET + ((similarity - lowest) / (1 - lowest)) * wide;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  drawBars(pen, scale, wide, high, colour);
  drawVerdicts(pen, xOf, high, colour);
  drawAxis(pen, xOf, width, height, high, colour);
}

function drawBars(pen, scale, wide, high, colour) {
  const step = wide / bins.many;
  for (let bin = 0; bin < bins.many; bin++) {
    const over = lowest + ((bin + 0.5) / bins.many) * (1 - lowest) >= threshold;
    pen.fillStyle = colour(over ? "--dup" : "--plain");
    for (const [counts, strength] of [[bins.all, 0.35], [bins.nearest, 1]]) {
      if (!counts[bin]) continue;
      const tall = Math.max(1.5, scale(counts[bin]) * (high - 18));
      pen.globalAlpha = strength;
      pen.fillRect(INSET + bin * step, high - tall, Math.max(1, step - 1), tall);
    }
  }
  pen.globalAlpha = 1;
}

/** Two rows of ticks under the bars: judged duplicates above, judged different below. */
function drawVerdicts(pen, xOf, high, colour) {
  for (const [verdict, name, top] of [[DUPLICATE, "--dup", high + 3], [DIFFERENT, "--diff", high + 12]]) {
    pen.fillStyle = colour(name);
    for (let pair = verdicts.indexOf(verdict); pair >= 0; pair = verdicts.indexOf(verdict, pair + 1)) {
      pen.fillRect(xOf(data.similarity[pair]) - 0.75, top, 1.5, 7);
    }
  }
}

function drawAxis(pen, xOf, width, height, high, colour) {
  pen.fillStyle = colour("--line");
  pen.fillRect(INSET, high, width - 2 * INSET, 1);
  pen.fillStyle = colour("--soft");
  pen.font = "11.5px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  const span = 1 - lowest, step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((size) => span / size <= 5.5) || 1;
  for (let tick = Math.ceil(lowest / step - 1e-9); tick * step <= 1 + 1e-9; tick++) {
    const x = xOf(tick * step), text = (tick * step).toFixed(step < 0.1 ? 2 : 1);
    pen.textAlign = x < 20 ? "left" : x > width - 20 ? "right" : "center";
    pen.fillText(text, pen.textAlign === "left" ? INSET : pen.textAlign === "right" ? width - INSET : x, height - 2);
  }
}

/* ── Rows: a virtual list ─────────────────────────────────────────────────────────────────────────────────────────── */

const list = $("list"), sizer = element("div", undefined, "sizer"), rows = new Map(); // item → its row
const unused = [];
let rowHeight = 420, seen = 0, lastTop = 0, settled = 0, quick = false; // seen: pixels of the list's own height

/** Sizes of a row for the available width: pictures take the space that texts leave. */
function measure() {
  seen = list.clientHeight;
  const wide = list.clientWidth, narrow = wide < 760;
  const column = narrow ? (wide - 56) / 2 : (wide - 48 - 264 - 40) / 2;
  const frame = Math.round(clamp(column * 0.75, 150, Math.max(200, seen - (narrow ? 290 : 190))));
  list.classList.toggle("narrow", narrow);
  rowHeight = frame + (narrow ? 232 : 128); // style sheet: line, captions, gaps and, below them, the scores
  if (!narrow) rowHeight = Math.max(rowHeight, 350);
  document.documentElement.style.setProperty("--frame", `${frame}px`);
  document.documentElement.style.setProperty("--row", `${rowHeight}px`);
}

const fullHeight = () => view.length * rowHeight;
const scrolledHeight = () => Math.min(fullHeight(), HIGHEST);
/** Pixels of rows for each scrolled pixel: 1, but for lists longer than a browser can scroll. */
const ratio = () => (scrolledHeight() > seen ? (fullHeight() - seen) / (scrolledHeight() - seen) : 1);
const virtualTop = () => list.scrollTop * ratio();
const scrollTo = (top) => { list.scrollTop = clamp(top, 0, Math.max(0, fullHeight() - seen)) / ratio(); };

function layOut() {
  const place = virtualTop() / rowHeight;
  measure();
  sizer.style.height = `${scrolledHeight()}px`;
  scrollTo(place * rowHeight);
  drawRows(true);
}

/** Draws the visible rows, and the current one wherever it is, so that it can keep the focus. */
function drawRows(fresh) {
  const scrolled = list.scrollTop, top = scrolled * ratio(), spare = quick ? 0 : OVERSCAN;
  const first = Math.max(0, Math.floor(top / rowHeight) - spare);
  const last = Math.min(view.length - 1, Math.ceil((top + seen) / rowHeight) - 1 + spare);
  const wanted = new Map();
  for (let place = first; place <= last; place++) wanted.set(view[place], place);
  if (view.length && !wanted.has(view[at])) wanted.set(view[at], at);
  for (const [item, row] of rows) {
    if (wanted.has(item)) continue;
    rows.delete(item);
    row.root.hidden = true;
    unused.push(row);
  }
  const shift = scrolled - top;
  for (const [item, place] of wanted) {
    const known = rows.get(item), row = known || takeRow(item);
    const y = place * rowHeight + shift;
    if (row.y !== y) row.root.style.transform = `translateY(${(row.y = y)}px)`;
    if (fresh || !known || row.place !== place) drawRow(row, item, place);
  }
}

function takeRow(item) {
  const row = unused.pop() || makeRow();
  rows.set(item, row);
  row.root.hidden = false;
  return row;
}

function makeRow() {
  const root = $("row").content.cloneNode(true).firstElementChild;
  const part = (name) => root.querySelector(name);
  const side = (name) => ({
    frame: part(`${name} .frame`), image: part(`${name} img`), absent: part(`${name} .absent`), key: part(`${name} .key`),
    size: part(`${name} .size`), link: part(`${name} a`), text: part(`${name} .text`), kind: part(`${name} b`),
  });
  const row = {
    root, place: -1, item: -1, y: -1, placeText: part(".place"), chip: part(".chip"), matched: part(".matched"), also: part(".also"),
    part: part(".part"), similarity: part(".similarity"),
    hash: part(".hash"), reference: side(".reference"), sample: side(".sample"), ranks: part(".ranks"),
    marks: [null, part(".mark.duplicate"), part(".mark.different")], buttons: [],
  };
  for (const kind of ["mousedown", "focusin"]) root.addEventListener(kind, () => { if (row.item !== current()) choose(row.place, 0); });
  for (const part of [row.reference, row.sample]) {
    part.frame.addEventListener("click", openCompare);
    part.image.addEventListener("load", () => part.image.classList.remove("waiting"));
    part.image.addEventListener("error", () => { part.image.hidden = true; part.absent.textContent = "The thumbnail is missing from the folder"; });
  }
  row.reference.image.addEventListener("load", () => drawPart(row.part, row.reference.image, viewOf(pairOf(row.item, row.place === at ? rank : 0))));
  for (const verdict of [DUPLICATE, DIFFERENT]) row.marks[verdict].addEventListener("click", () => mark(verdict));
  list.append(root);
  return row;
}

function drawRow(row, item, place) {
  const isCurrent = place === at, chosen = isCurrent ? rank : 0, pair = pairOf(item, chosen);
  Object.assign(row, { item, place });
  const root = row.root, metadata = detailsOf(item), out = leftOut(item);
  root.classList.toggle("current", isCurrent);
  root.classList.toggle("out", out >= 0);
  attr(root, "tabindex", isCurrent ? 0 : -1);
  attr(root, "aria-posinset", place + 1);
  attr(root, "aria-setsize", view.length);
  attr(root, "aria-current", isCurrent);
  attr(root, "aria-label", describe(item, pair, place));
  const edge = isEdge(place);
  root.classList.toggle("edge", edge);
  attr(root, "data-edge", edge ? `under the threshold ${shown(threshold)}` : "");
  put(row.placeText, number(item + 1));
  drawChip(row.chip, pair);
  put(row.also, out > 0 && !isDuplicate(pair) ? `reference is left out because of neighbour ${out + 1}` : "");
  put(row.similarity, data.similarity[pair].toFixed(4));
  put(row.hash, data.hashes[pair] < 0 ? "–" : data.hashes[pair]);
  row.hash.classList.toggle("near", data.hashes[pair] >= 0 && data.hashes[pair] <= HASH_NEAR);
  for (const verdict of [DUPLICATE, DIFFERENT]) {
    attr(row.marks[verdict], "aria-pressed", verdicts[pair] === verdict);
    attr(row.marks[verdict], "tabindex", isCurrent ? 0 : -1);
  }
  drawSide(row.reference, "references", item, texts.keys[item], texts.captions[item], metadata && metadata.references, metadata ? item % data.chunk : -1, isCurrent);
  put(row.matched, matchedText(pair));
  drawPart(row.part, row.reference.image, viewOf(pair));
  const sample = data.samples[pair], within = metadata ? pair - starts[item - (item % data.chunk)] : -1;
  const caption = metadata ? metadata.pairs.caption[within] : chosen ? "" : texts.nearest[item];
  put(row.sample.kind, chosen ? `Training, neighbour ${chosen + 1}` : "Training");
  drawSide(row.sample, "samples", sample, sampleKeys[sample], caption, metadata && metadata.pairs, within, isCurrent);
  if (!quick) drawRanks(row, item, chosen, isCurrent);
  row.ranks.hidden = quick;
}

function drawChip(chip, pair) {
  const verdict = verdicts[pair], duplicate = isDuplicate(pair);
  dress(chip, `chip ${duplicate ? "duplicate" : "different"}${verdict ? " judged" : ""}`);
  put(chip, verdict ? `Judged ${WORDS[verdict]}` : duplicate ? "Duplicate by threshold" : "Under the threshold");
}

function drawSide(side, series, picture, key, caption, metadata, within, isCurrent) {
  drawImage(side.image, series, picture, side.absent);
  put(side.key, key);
  attr(side.key, "title", series === "samples" && shards[picture] !== null ? `${key}, in shard ${shards[picture]}` : key);
  put(side.text, caption || "");
  attr(side.text, "title", caption || "");
  put(side.size, metadata ? sizeOf(metadata, within) : "");
  const href = metadata ? safeLink(metadata.url[within]) : "";
  side.link.hidden = !href;
  if (href) attr(side.link, "href", href); else side.link.removeAttribute("href");
  attr(side.link, "title", href);
  attr(side.link, "tabindex", isCurrent ? 0 : -1);
  attr(side.frame, "tabindex", isCurrent ? 0 : -1);
  attr(side.frame, "aria-label", `Compare: ${series === "references" ? "reference" : "training picture"} ${caption || key}`);
}

/** `640×480`, preceded by the original size where that differs. */
function sizeOf(metadata, within) {
  const size = (width, height) => (width && height ? `${width}×${height}` : "");
  const kept = size(metadata.width[within], metadata.height[within]), came = size(metadata.original_width[within], metadata.original_height[within]);
  return came && came !== kept ? `${came} → ${kept || "?"}` : kept;
}

/** The link if it is http or https, else an empty text. */
function safeLink(url) {
  try {
    return ["http:", "https:"].includes(new URL(url || "").protocol) ? url : "";
  } catch {
    return "";
  }
}

const version = () => (SERVED ? `?${data.matches_sha256.slice(0, 12)}` : "");
const thumbnail = (series, picture) => `thumbs/${series}/${String(Math.floor(picture / 1000)).padStart(3, "0")}/${String(picture).padStart(6, "0")}.jpg${version()}`;

function drawImage(image, series, picture, absent) {
  const reason = data.lost[series][picture];
  image.hidden = Boolean(reason);
  if (absent) put(absent, reason ? `This picture ${REASONS[reason] || reason}` : "");
  const source = reason || quick ? "" : thumbnail(series, picture);
  if (image.dataset.source === source) return;
  image.dataset.source = source;
  image.classList.add("waiting");
  if (source) image.src = source; else image.removeAttribute("src");
}

/** Frames a view on its picture, which lies in the middle of its own frame, like the drawing of an SVG. */
function drawPart(part, image, view) {
  part.toggleAttribute("hidden", !view || image.hidden || image.classList.contains("waiting"));
  if (!view) return;
  const [wide, high] = [image.naturalWidth, image.naturalHeight];
  attr(part, "viewBox", `0 0 ${wide} ${high}`);
  for (const rect of part.children) {
    attr(rect, "x", view.left * wide);
    attr(rect, "y", view.top * high);
    attr(rect, "width", (view.right - view.left) * wide);
    attr(rect, "height", (view.bottom - view.top) * high);
  }
}

function drawRanks(row, item, chosen, isCurrent) {
  const count = starts[item + 1] - starts[item];
  while (row.buttons.length < count) row.buttons.push(makeRank(row));
  row.buttons.forEach((button, place) => {
    button.root.hidden = place >= count;
    if (place >= count) return;
    const pair = pairOf(item, place), verdict = verdicts[pair];
    drawImage(button.image, "samples", data.samples[pair], null);
    put(button.number, data.similarity[pair].toFixed(3));
    dress(button.knob, `rank ${verdict ? WORDS[verdict] : data.similarity[pair] >= threshold ? "over" : ""}`);
    attr(button.knob, "aria-current", place === chosen);
    attr(button.knob, "aria-label", `Rank ${place + 1}, similarity ${data.similarity[pair].toFixed(4)}, ${stateOf(pair)}`);
    attr(button.knob, "tabindex", isCurrent ? 0 : -1);
  });
}

function makeRank(row) {
  const root = element("li"), knob = element("button", undefined, "rank"), small = element("span", undefined, "small");
  const image = element("img"), number = element("span", undefined, "number"), place = row.buttons.length;
  knob.type = "button";
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("load", () => image.classList.remove("waiting"));
  small.append(image);
  knob.append(small, number);
  root.append(knob);
  row.ranks.append(root);
  knob.addEventListener("click", () => choose(row.place, place));
  return { root, knob, image, number };
}

const stateOf = (pair) => (verdicts[pair] ? `judged ${WORDS[verdicts[pair]]}` : isDuplicate(pair) ? "duplicate by threshold" : "under the threshold");

/** The index of a reference's first duplicate pair, from 0; -1 where there is none. */
function leftOut(item) {
  for (let pair = starts[item]; pair < starts[item + 1]; pair++) if (isDuplicate(pair)) return pair - starts[item];
  return -1;
}

/** Whether the threshold lies between this row and the one before. */
function isEdge(place) {
  const nearest = (at) => data.similarity[starts[view[at]]];
  return nearest(place) < threshold && (place === 0 || nearest(place - 1) >= threshold);
}

function describe(item, pair, place) {
  const hash = data.hashes[pair] < 0 ? "no hash" : `${data.hashes[pair]} hash bits differ`;
  const other = pair - starts[item] ? `, neighbour ${pair - starts[item] + 1}` : "";
  return `Pair ${number(place + 1)} of ${number(view.length)}${other}: similarity ${data.similarity[pair].toFixed(4)}, ${hash}, ${[stateOf(pair), matchedText(pair)].filter(Boolean).join(", ")}. ${texts.captions[item] || texts.keys[item]}`;
}

/** The details of an item's chunk, if they are loaded; else loads them, and redraws the rows then. */
function detailsOf(item) {
  const chunk = Math.floor(item / data.chunk), known = details.get(chunk);
  if (known) return known.references ? known : null;
  if (quick) return null;
  details.set(chunk, {});
  for (const old of details.keys()) if (details.size > DETAILS_KEPT && old !== chunk) details.delete(old);
  load(`data/details/${String(chunk).padStart(5, "0")}.js`).then(
    (loaded) => { details.set(chunk, loaded); drawRows(true); if ($("compare").open) drawCompare(); },
    (error) => say(error.message, true),
  );
  return null;
}

list.addEventListener("scroll", () => {
  const moved = Math.abs(list.scrollTop - lastTop);
  lastTop = list.scrollTop;
  quick = moved > FAST * rowHeight;
  clearTimeout(settled);
  if (quick) settled = setTimeout(() => { quick = false; drawRows(true); }, 90);
  drawRows(false);
}, { passive: true });

/* ── Moving ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

/** Makes a row and one of its pairs current, scrolls to it and gives it the keyboard's focus. */
function select(place, which) {
  fold(true);
  if (!view.length) return;
  choose(place, which);
  reveal();
  drawRows(false);
  const row = rows.get(current());
  if (!$("compare").open) row.root.focus({ preventScroll: true });
  if (rank) row.buttons[rank]?.root.scrollIntoView({ block: "nearest", inline: "nearest" });
  say(describe(current(), currentPair(), at));
  if ($("compare").open) drawCompare();
}

/** Makes a row and one of its pairs current without scrolling, so that nothing moves under the mouse. */
function choose(place, which) {
  const before = current();
  at = clamp(place, 0, view.length - 1);
  rank = clamp(which, 0, starts[view[at] + 1] - starts[view[at]] - 1);
  for (const item of new Set([before, current()])) if (rows.has(item)) drawRow(rows.get(item), item, rows.get(item).place);
}

/** Scrolls until the current row is fully visible, with part of the row above it where there is room. */
function reveal() {
  const top = at * rowHeight, now = virtualTop();
  if (top < now) scrollTo(top - (seen > 1.6 * rowHeight ? 0.35 * rowHeight : 0));
  else if (top + rowHeight > now + seen) scrollTo(seen > 1.6 * rowHeight ? top + 1.35 * rowHeight - seen : top);
}

/** The position in the view of the first row whose nearest similarity is under a value. */
function placeUnder(similarity, orEqual) {
  let low = 0, high = view.length;
  while (low < high) {
    const middle = (low + high) >> 1, value = data.similarity[starts[view[middle]]];
    if (value > similarity || (value === similarity && !orEqual)) low = middle + 1; else high = middle;
  }
  return low;
}

function toThreshold() {
  const place = placeUnder(threshold, false);
  const edge = place < view.length && data.similarity[starts[view[place]]] < threshold ? place : place - 1;
  scrollTo((Math.max(0, edge) + 0.5) * rowHeight - seen / 2);
  select(edge, 0);
}

function toPair(pair) {
  const item = ownerOf[pair];
  let place = view.indexOf(item);
  if (place < 0) { clearFilter(); place = view.indexOf(item); }
  select(place, pair - starts[item]);
}

/** Goes to the visible unjudged pair whose similarity is closest to the threshold. */
function toNearestUnjudged() {
  let best = -1, least = Infinity;
  for (let place = 0; place < view.length; place++) {
    const pair = starts[view[place]], distance = Math.abs(data.similarity[pair] - threshold);
    if (!verdicts[pair] && distance < least) [best, least] = [place, distance];
  }
  if (best < 0) say("Every pair that is shown is judged", true); else select(best, 0);
}

/* ── Verdicts, threshold, undo ────────────────────────────────────────────────────────────────────────────────────── */

/** Sets the verdict of the current pair; the same verdict again removes it. After a new one it goes to the next pair. */
function mark(verdict) {
  const pair = currentPair();
  if (pair < 0) return;
  const next = verdicts[pair] === verdict ? NONE : verdict;
  step({ pair, before: verdicts[pair], after: next });
  const last = rank === starts[current() + 1] - starts[current()] - 1;
  if (next && advancing && rank === 0 && at < view.length - 1) select(at + 1, 0);
  else if (next && advancing && rank > 0 && !last) select(at, rank + 1);
  say(next ? `${WORDS[next]}. ${describe(current(), currentPair(), at)}` : "no verdict");
  if (next && SERVED && !who() && !saving.asked) askName();
}

function setThreshold(value) {
  const next = clamp(value, -1, 1);
  if (!Number.isFinite(value) || next === threshold) return;
  const last = done[done.length - 1];
  if (last && last.sliding) { last.after = next; apply(last, "after"); } // one slide is one step
  else step({ threshold: true, sliding: true, before: threshold, after: next });
}

/** A slide is one step; it is saved when it ends. */
function endSlide() {
  const last = done[done.length - 1];
  if (!last || !last.sliding) return;
  last.sliding = false;
  save();
}
const moveThreshold = (by) => { setThreshold(Math.round((threshold + by) * 1e6) / 1e6); endSlide(); say(`Threshold ${shown(threshold)}`); };

function step(one) {
  endSlide();
  done.push(one);
  if (done.length > HISTORY) done.shift();
  undone.length = 0;
  apply(one, "after");
}

/** Applies one side of a step (before, after): a pair's verdict, the threshold, or a whole decision. */
function apply(one, side) {
  if (one.threshold) threshold = one[side];
  else if (one.whole) force(one[side]);
  else setVerdict(one.pair, one[side]);
  decided = true;
  refresh();
  stale();
  if (!one.sliding) save();
}

/** Replaces threshold and verdicts. */
function force(state) {
  threshold = state.threshold;
  verdicts.set(state.verdicts);
  judgedIn.fill(0);
  for (let pair = 0; pair < P; pair++) if (verdicts[pair]) judgedIn[ownerOf[pair]]++;
  decided = true;
}

function back(from, to, side) {
  const one = from.pop();
  if (!one) return;
  one.sliding = false;
  to.push(one);
  apply(one, side);
  if (one.pair !== undefined) toPair(one.pair);
  say(`${side === "before" ? "Undone" : "Done again"}: ${one.pair === undefined ? `threshold ${shown(threshold)}` : stateOf(one.pair)}`);
}
const undo = () => back(done, undone, "before");
const redo = () => back(undone, done, "after");

/* ── Filter ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

let searched = null; // the text that the filter's words are searched in, by item

function filter() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean), verdict = $("verdicts").value, score = $("scores").value;
  const before = current(), kept = new Int32Array(N);
  let count = 0;
  for (let item = 0; item < N; item++) {
    if (verdict && !hasVerdict(item, verdict)) continue;
    if (score && !hasScore(starts[item], score)) continue;
    if (words.length && !hasWords(item, words)) continue;
    kept[count++] = item;
  }
  view = kept.slice(0, count);
  rows.forEach((row) => { row.place = -1; });
  const place = view.indexOf(before);
  [at, rank] = place < 0 ? [clamp(lowerPlace(before), 0, Math.max(0, count - 1)), 0] : [place, rank];
  $("found").textContent = count === N ? number(N) : `${number(count)} of ${number(N)}`;
  $("again").hidden = true;
  for (const name of ["verdicts", "scores"]) $(name).classList.toggle("set", $(name).value !== "");
  list.querySelector(".empty")?.remove();
  if (!count) list.append(element("p", N ? "No pair passes the filter." : "There is no pair.", "empty"));
  layOut();
  if (count) reveal();
  drawRows(true);
}

function lowerPlace(item) {
  const place = view.findIndex((other) => other >= item);
  return place < 0 ? view.length - 1 : place;
}

function hasVerdict(item, wanted) {
  if (wanted === "unjudged") return !verdicts[starts[item]];
  if (!judgedIn[item]) return false;
  for (let pair = starts[item]; pair < starts[item + 1]; pair++) {
    if (verdicts[pair] && (wanted === "judged" || WORDS[verdicts[pair]] === wanted)) return true;
  }
  return false;
}

function hasScore(pair, wanted) {
  const similarity = data.similarity[pair], over = similarity >= threshold;
  if (wanted === "near") return Math.abs(similarity - threshold) <= NEAR;
  if (wanted === "disagree") return data.hashes[pair] >= 0 && over !== data.hashes[pair] <= HASH_NEAR;
  return wanted === "over" ? over : !over;
}

function hasWords(item, words) {
  searched ||= texts.keys.map((key, at) => [key, texts.captions[at], texts.nearest[at]].join("\n").toLowerCase());
  const among = (word) => {
    for (let pair = starts[item]; pair < starts[item + 1]; pair++) if (sampleKeys[data.samples[pair]].includes(word)) return true;
    return false;
  };
  return words.every((word) => searched[item].includes(word) || among(word));
}

function clearFilter() {
  $("words").value = $("verdicts").value = $("scores").value = "";
  filter();
}

/** A filter on verdicts or scores is not applied again while judging: a button shows that it is outdated. */
function stale() {
  $("again").hidden = !($("verdicts").value || $("scores").value);
}

/* ── Compare: both pictures in the same position ─────────────────────────────────────────────────────────────────────── */

const compare = { flipped: false, difference: false, stretch: false, mirror: false, zoom: 1, x: 0, y: 0 };

function openCompare() {
  if (!view.length || $("compare").open) return;
  Object.assign(compare, { flipped: false, zoom: 1, x: 0, y: 0 });
  $("compare").showModal();
  drawCompare();
}

/** Back to the list, to the pair that was shown last; the browser would return to the first. */
function closeCompare() {
  const [place, which] = [at, rank];
  $("compare").close();
  select(place, which);
}

function drawCompare() {
  const item = current(), pair = currentPair(), stage = $("stage"), metadata = detailsOf(item);
  const [a, b] = [stage.querySelector(".a"), stage.querySelector(".b")];
  drawImage(a, "references", item, null);
  drawImage(b, "samples", data.samples[pair], null);
  stage.classList.toggle("flipped", compare.flipped && !compare.difference);
  stage.classList.toggle("difference", compare.difference);
  $("difference").setAttribute("aria-pressed", compare.difference);
  for (const name of ["stretch", "mirror"]) {
    $(name).setAttribute("aria-pressed", compare[name]);
    stage.classList.toggle(name, compare[name]);
  }
  const lost = [data.lost.references[item], data.lost.samples[data.samples[pair]]];
  for (const [name, side] of [["a", 0], ["b", 1]]) {
    const visible = compare.difference || compare.flipped === Boolean(side);
    $(`which-${name}`).className = visible ? "seen" : "";
    $(`which-${name}`).setAttribute("aria-hidden", !visible);
    $(`which-${name}`).textContent = (side ? "Training" : "Reference") + (lost[side] ? " (no picture)" : "");
  }
  const hash = data.hashes[pair] < 0 ? "no hash" : `${data.hashes[pair]} hash bits differ`;
  $("compare-numbers").textContent = `${number(at + 1)} of ${number(view.length)} · rank ${rank + 1} · similarity ${data.similarity[pair].toFixed(4)} · ${[hash, matchedText(pair)].filter(Boolean).join(" · ")}`;
  drawChip($("compare-chip"), pair);
  const within = pair - starts[item - (item % data.chunk)];
  const caption = metadata ? metadata.pairs.caption[within] : texts.nearest[item];
  $("compare-text").textContent = compare.flipped && !compare.difference ? caption || sampleKeys[data.samples[pair]] : texts.captions[item] || texts.keys[item];
  for (const verdict of [DUPLICATE, DIFFERENT]) {
    $("compare").querySelector(`.mark.${WORDS[verdict]}`).setAttribute("aria-pressed", verdicts[pair] === verdict);
  }
  placePictures();
}

/** Both whole and centred; "same shape" resizes the second to the size of the first. */
function placePictures() {
  const ground = $("stage").querySelector(".ground"), [a, b] = ground.querySelectorAll("img");
  const box = [ground.clientWidth, ground.clientHeight];
  const fit = (image) => {
    const scale = Math.min(box[0] / image.naturalWidth, box[1] / image.naturalHeight);
    return [image.naturalWidth * scale, image.naturalHeight * scale];
  };
  for (const image of [a, b]) {
    const like = compare.stretch && a.naturalWidth ? a : image;
    if (!like.naturalWidth) continue;
    const [width, height] = fit(like);
    image.style.width = `${width}px`;
    image.style.height = `${height}px`;
    image.style.left = `${(box[0] - width) / 2}px`;
    image.style.top = `${(box[1] - height) / 2}px`;
  }
  drawPart(ground.querySelector(".part"), a, viewOf(currentPair()));
  ground.style.transform = `translate(${compare.x}px, ${compare.y}px) scale(${compare.zoom})`;
}

function zoom(factor) {
  compare.zoom = factor ? clamp(compare.zoom * factor, 1, 8) : 1;
  if (compare.zoom === 1) compare.x = compare.y = 0;
  placePictures();
}

const flip = () => { compare.flipped = !compare.flipped; compare.difference = false; drawCompare(); };
const toggle = (name) => { compare[name] = !compare[name]; drawCompare(); };

function watchStage() {
  const stage = $("stage");
  let from = null;
  for (const image of stage.querySelectorAll("img")) image.addEventListener("load", () => { image.classList.remove("waiting"); placePictures(); });
  stage.addEventListener("pointerdown", (event) => { from = [event.clientX - compare.x, event.clientY - compare.y, event.clientX, event.clientY]; stage.setPointerCapture(event.pointerId); });
  stage.addEventListener("pointermove", (event) => {
    if (!from || compare.zoom === 1) return;
    [compare.x, compare.y] = [event.clientX - from[0], event.clientY - from[1]];
    placePictures();
  });
  stage.addEventListener("pointerup", (event) => {
    if (from && Math.hypot(event.clientX - from[2], event.clientY - from[3]) < 4) flip();
    from = null;
  });
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15); }, { passive: false });
}

/* ── Saving the decision ─────────────────────────────────────────────────────────────────────────────────────────── */

const saving = { token: "", revision: "", dirty: false, busy: false, stopped: false, asked: false };
const STORED = () => `gesso review ${data.matches_sha256}`;

const who = () => $("who").value.trim();

function overrides() {
  const found = [];
  for (let pair = 0; pair < P; pair++) {
    if (verdicts[pair]) found.push({ reference_key: texts.keys[ownerOf[pair]], uid: sampleKeys[data.samples[pair]], verdict: WORDS[verdicts[pair]] });
  }
  const order = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  return found.sort((one, other) => order(one.reference_key, other.reference_key) || order(one.uid, other.uid));
}

const decision = () => ({
  format: FORMAT, kind: "decision", threshold, overrides: overrides(), who: who(), when: `${new Date().toISOString().slice(0, 19)}+00:00`,
  model: data.model, matches_sha256: data.matches_sha256, views: viewsOfReference(),
});
const viewsOfReference = () => (data.views ? data.views.length : 1);

/** Saves every change at once; changes during a request are sent together in the next one. */
function save() {
  if (!decided) return;
  saving.dirty = true;
  if (SERVED) send(); else saveHere();
}

function saveHere() {
  try {
    localStorage.setItem(STORED(), JSON.stringify(decision()));
    saving.dirty = false;
    saved("Saved in this browser; Export writes decision.json", "kept");
  } catch (error) {
    saved(`Not saved: this browser stores nothing for local files (${error.name}). Export before you leave`, "failed");
  }
}

async function send() {
  if (saving.busy || saving.stopped || !saving.dirty) return;
  const name = who();
  saving.busy = true;
  saving.dirty = false;
  saved("Saving …", "");
  let wait = 0;
  try {
    const body = JSON.stringify({ threshold, overrides: overrides(), who: name, revision: saving.revision });
    const headers = { "Content-Type": "application/json", "X-Gesso-Token": saving.token };
    const answer = await fetch("/decision", { method: "POST", headers, body });
    const reply = await answer.json();
    if (answer.ok) { saving.revision = reply.revision; savedThere(name, `, ${new Date().toTimeString().slice(0, 5)}`); }
    else wait = await refused(answer.status, reply.error);
  } catch (error) {
    if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error; // what fetch and json() fail with
    saving.dirty = true;
    wait = RETRY;
    saved("Not saved: `gesso review` does not answer. Trying again", "failed");
  }
  saving.busy = false;
  if (wait) setTimeout(send, wait); else send();
}

/** Handles a refused request: a new token after a restart of the server, a choice after a change elsewhere. */
async function refused(status, message) {
  saving.dirty = true;
  if (status === 403) {
    const reply = await (await fetch("/decision")).json();
    saving.token = reply.token;
    return reply.revision === saving.revision ? 1 : conflict(reply);
  }
  if (status === 409) return conflict(await (await fetch("/decision")).json());
  saving.stopped = true;
  saved(`Not saved: ${message}`, "failed");
  return 0;
}

function conflict(reply) {
  saving.stopped = true;
  const mine = element("button", "Keep mine"), theirs = element("button", "Take theirs");
  const go = (act) => () => { $("notice").hidden = true; saving.stopped = false; saving.revision = reply.revision; act(); };
  mine.addEventListener("click", go(() => { saving.dirty = true; send(); }));
  theirs.addEventListener("click", go(() => { saving.dirty = false; if (reply.decision) takeOver(reply.decision, false); }));
  $("notice").replaceChildren(element("span", "decision.json was changed elsewhere since this page read it: in another tab, or by a command."), mine, theirs);
  $("notice").hidden = false;
  saved("Not saved: changed elsewhere", "failed");
  return 0;
}

function saved(text, name) {
  $("saved").textContent = text;
  $("saved").className = `saved ${name}`;
  $("fold").dataset.saved = name;
}

/** What the server has: a decision, or without a name a draft. */
function savedThere(name, when) {
  $("sign").hidden = Boolean(name);
  if (name) saved(`Saved in decision.json${when}`, "kept");
  else saved(`Draft saved${when}`, "draft");
}

/** Asks for the name once; without one the draft stays. */
function askName() {
  saving.asked = true;
  $("naming").showModal();
}

function giveName(event) {
  event.preventDefault();
  const name = $("naming-who").value.trim();
  if (!name) return;
  $("who").value = name;
  $("naming").close();
  save();
}

const sign = () => (who() ? save() : askName());

/* ── Export and import ────────────────────────────────────────────────────────────────────────────────────────────── */

function exportFile() {
  if (!who()) { $("who").focus(); say("Enter your name under Decided by before you export", true); return; }
  const link = element("a"), blob = new Blob([`${JSON.stringify(decision(), null, 1)}\n`], { type: "application/json" });
  link.href = URL.createObjectURL(blob);
  link.download = "decision.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say("decision.json is exported", true);
}

const canonical = (value) => JSON.stringify(value, (_, item) => (item && typeof item === "object" && !Array.isArray(item) ? Object.fromEntries(Object.entries(item).sort()) : item));

/** Verdicts by pair. Throws an Error with one line where the value is not a decision on these matches. */
function understand(value) {
  if (!value || !["decision", "decision_draft"].includes(value.kind) || value.format !== FORMAT || !Array.isArray(value.overrides)) throw new Error("This is not a decision.json of gesso review");
  if (canonical(value.model) !== canonical(data.model)) throw new Error(`It was made for another model (${value.model?.name}), not for ${data.model.name}`);
  if ((value.views ?? 1) !== viewsOfReference()) throw new Error(`It was made on references in ${value.views ?? 1} views, not in ${viewsOfReference()}`);
  if (value.matches_sha256 !== data.matches_sha256) throw new Error("It was made on other matches than these");
  if (typeof value.threshold !== "number" || !(Math.abs(value.threshold) <= 1)) throw new Error(`Its threshold is ${value.threshold}`);
  const read = new Uint8Array(P);
  itemOf ||= new Map(texts.keys.map((key, item) => [key, item]));
  for (const one of value.overrides) {
    const item = itemOf.get(one.reference_key), verdict = WORDS.indexOf(one.verdict, 1);
    let pair = item === undefined ? P : starts[item];
    while (item !== undefined && pair < starts[item + 1] && sampleKeys[data.samples[pair]] !== one.uid) pair++;
    if (item === undefined || pair === starts[item + 1] || verdict < 0) throw new Error(`It judges a pair that is not in these matches: ${one.reference_key}, ${one.uid}`);
    read[pair] = verdict;
  }
  return read;
}

function takeOver(value, keep) {
  const after = { verdicts: understand(value), threshold: value.threshold };
  const before = { verdicts: verdicts.slice(), threshold };
  if (keep) step({ whole: true, before, after });
  else { force(after); if (value.who) $("who").value = value.who; refresh(); stale(); }
}

async function importFile() {
  const file = $("file").files[0];
  $("file").value = "";
  if (!file) return;
  try {
    const value = JSON.parse(await file.text());
    takeOver(value, true);
    say(`${number(value.overrides.length)} verdicts and the threshold ${shown(value.threshold)} of ${value.who || "a draft"} are imported; Undo takes it back`, true);
  } catch (error) {
    say(`${file.name} is not imported. ${error.message}`, true);
  }
}

/* ── Messages ──────────────────────────────────────────────────────────────────────────────────────────── */

let hush = 0;
/** For a screen reader; with `toSee` the message is also shown for some seconds. */
function say(text, toSee) {
  $("said").textContent = text;
  if (!toSee) return;
  $("notice").replaceChildren(element("span", text));
  $("notice").hidden = false;
  clearTimeout(hush);
  hush = setTimeout(() => { if (!saving.stopped) $("notice").hidden = true; }, 6000);
}

/* ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

const KEYS = {
  j: () => select(at + 1, 0), ArrowDown: () => select(at + 1, 0), k: () => select(at - 1, 0), ArrowUp: () => select(at - 1, 0),
  l: () => select(at, rank + 1), ArrowRight: () => select(at, rank + 1), h: () => select(at, rank - 1), ArrowLeft: () => select(at, rank - 1),
  Home: () => select(0, 0), End: () => select(view.length - 1, 0),
  PageDown: () => select(at + Math.max(1, Math.floor(seen / rowHeight)), 0),
  PageUp: () => select(at - Math.max(1, Math.floor(seen / rowHeight)), 0),
  d: () => mark(DUPLICATE), x: () => mark(DIFFERENT), f: () => mark(DIFFERENT), u: undo, U: redo,
  a: () => { advancing = !advancing; drawPanel(); say(advancing ? "After a verdict: next pair" : "After a verdict: same pair", true); },
  "[": () => moveThreshold(-0.005), "]": () => moveThreshold(0.005), "{": () => moveThreshold(-0.001), "}": () => moveThreshold(0.001),
  s: () => { if (view.length) { setThreshold(Math.floor(data.similarity[currentPair()] * 1e4) / 1e4); endSlide(); say(`Threshold ${shown(threshold)}, at this pair`); } },
  t: toThreshold, n: toNearestUnjudged, r: filter, g: openGoto, "/": () => $("words").focus(),
  "?": () => $("keys").showModal(), " ": openCompare,
};
const COMPARE_KEYS = {
  " ": flip, i: () => toggle("difference"), z: () => toggle("stretch"), m: () => toggle("mirror"), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => zoom(0),
};
const IN_COMPARE = new Set(["j", "k", "l", "h", "d", "x", "f", "u", "U", "n", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"]);
const typing = (target) => target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");

function onKey(event) {
  const target = event.target, key = event.key, open = document.querySelector("dialog[open]");
  if (event.altKey || ((event.ctrlKey || event.metaKey) && !/^[zyZ]$/.test(key)) || (open && open.id !== "compare")) return;
  if (typing(target)) { if (key === "Escape") leave(target); return; }
  if (event.ctrlKey || event.metaKey) { event.preventDefault(); (key === "y" || key === "Z" ? redo : undo)(); return; }
  if (target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key)) return;
  if (key === " " && target.matches("button, a, summary, input[type=checkbox]") && !target.matches(".frame")) return;
  const act = open ? COMPARE_KEYS[key] || (IN_COMPARE.has(key) && KEYS[key]) : KEYS[key] || (/^[1-9]$/.test(key) && (() => select(at, Number(key) - 1)));
  if (!act) return;
  event.preventDefault();
  act();
}

function leave(field) {
  field.blur();
  if (view.length) rows.get(current())?.root.focus({ preventScroll: true });
}

function openGoto() {
  $("goto-said").textContent = "";
  $("goto").showModal();
  $("target").select();
}

/** Goes to a similarity, position or key; false where there is none. */
function goTo(text) {
  const value = Number(text.replace(",", "."));
  if (/^-?(0?[.,]\d+|[01][.,]\d*)$/.test(text)) { select(Math.min(placeUnder(value, true), view.length - 1), 0); return true; }
  if (/^#?\d+$/.test(text) && Number(text.replace("#", "")) >= 1 && Number(text.replace("#", "")) <= N && !texts.keys.includes(text)) { toPair(starts[Number(text.replace("#", "")) - 1]); return true; }
  const item = texts.keys.indexOf(text), close = item < 0 ? texts.keys.findIndex((key) => key.includes(text)) : item;
  if (close < 0) return false;
  toPair(starts[close]);
  return true;
}

/* ── Panel on a small screen: folded away, or over the list ───────────────────────────────────────────────────────── */

function fold(folded) {
  if (folded !== document.body.classList.contains("unfolded")) return;
  document.body.classList.toggle("unfolded", !folded);
  $("fold").setAttribute("aria-expanded", !folded);
  $("fold").textContent = folded ? "Threshold, filters" : "Back to the pairs";
}

/* ── Start ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

function wire() {
  document.addEventListener("keydown", onKey);
  $("slider").addEventListener("input", () => { setThreshold(Number($("slider").value)); followThreshold(); });
  $("slider").addEventListener("change", endSlide);
  $("threshold").addEventListener("change", () => { setThreshold(Number($("threshold").value)); endSlide(); $("threshold").value = shown(threshold); });
  $("threshold").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.target.blur(); toThreshold(); } });
  $("log").addEventListener("change", drawHistogram);
  let typed = 0;
  $("words").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(filter, 120); });
  $("words").addEventListener("keydown", (event) => { if (event.key === "Enter") { clearTimeout(typed); filter(); leave(event.target); } });
  for (const name of ["verdicts", "scores"]) $(name).addEventListener("change", filter);
  for (const [name, act] of Object.entries({
    again: filter, undo, redo, jump: openGoto, export: exportFile, import: () => $("file").click(), help: () => $("keys").showModal(),
    next: toNearestUnjudged, flip, nearer: () => zoom(1.25), farther: () => zoom(0.8), close: closeCompare,
    sign, fold: () => fold(document.body.classList.contains("unfolded")), "naming-later": () => $("naming").close(),
    suggested: () => { setThreshold(Number($("suggested").dataset.value)); endSlide(); },
    difference: () => toggle("difference"), stretch: () => toggle("stretch"), mirror: () => toggle("mirror"), "goto-cancel": () => $("goto").close(),
    lowest: () => toPair(Number($("lowest").dataset.pair)), highest: () => toPair(Number($("highest").dataset.pair)),
  })) $(name).addEventListener("click", act);
  for (const verdict of [DUPLICATE, DIFFERENT]) $("compare").querySelector(`.mark.${WORDS[verdict]}`).addEventListener("click", () => mark(verdict));
  $("compare").addEventListener("cancel", (event) => { event.preventDefault(); closeCompare(); });
  $("naming").querySelector("form").addEventListener("submit", giveName);
  $("goto").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("target").value.trim();
    $("goto").close();
    if (!goTo(text)) { openGoto(); $("goto-said").textContent = `Nothing found for ${text}`; }
  });
  $("file").addEventListener("change", importFile);
  $("who").addEventListener("change", save);
  addEventListener("beforeunload", (event) => { if (saving.dirty || saving.busy) event.preventDefault(); });
  new ResizeObserver(() => { layOut(); readChart(); if ($("compare").open) placePictures(); }).observe(list);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readChart);
  watchStage();
}

/** While the slider moves, the list shows the pairs at the threshold. */
function followThreshold() {
  scrollTo(placeUnder(threshold, false) * rowHeight - seen / 2);
}

function unpackAll(packed) {
  data = packed;
  Object.assign(data, {
    counts: unpack(packed.counts, Int32Array), samples: unpack(packed.samples, Int32Array),
    similarity: unpack(packed.similarity, Float32Array), hashes: unpack(packed.hashes, Int32Array),
  });
  matched = packed.matched ? unpack(packed.matched, Int32Array) : null;
  N = data.counts.length;
  P = data.samples.length;
  starts = new Int32Array(N + 1);
  ownerOf = new Int32Array(P);
  for (let item = 0; item < N; item++) {
    starts[item + 1] = starts[item] + data.counts[item];
    ownerOf.fill(item, starts[item], starts[item + 1]);
  }
  verdicts = new Uint8Array(P);
  judgedIn = new Uint16Array(N);
  view = Int32Array.from({ length: N }, (_, item) => item);
  const least = data.similarity.reduce((one, other) => Math.min(one, other), 0.95);
  lowest = Math.max(-1, Math.floor(least * 20) / 20);
  Object.assign($("slider"), { min: lowest, max: 1, step: 0.001 });
}

/** The existing decision or draft: the server's; for a file, the later of this browser's and the folder's. */
async function earlier() {
  if (SERVED) {
    const reply = await (await fetch("/decision")).json();
    if (reply.error) throw new Error(reply.error);
    Object.assign(saving, { token: reply.token, revision: reply.revision });
    $("who").value = reply.who;
    suggest(reply.suggestion);
    return reply.decision;
  }
  const { decision: written, suggestion } = await load("session.js");
  suggest(suggestion);
  let here = null;
  try { here = JSON.parse(localStorage.getItem(STORED())); } catch (error) { saved(`This browser stores nothing for local files (${error.name}): export before you leave`, "failed"); }
  return here && (!written || here.when >= written.when) ? here : written;
}

/** The threshold to begin with, and its reason. */
function suggest({ threshold: value, reason }) {
  if (value !== null) threshold = value;
  $("suggested").textContent = value === null ? "none" : shown(value);
  $("suggested").disabled = value === null;
  $("suggested").dataset.value = value;
  $("reason").textContent = reason;
}

function tellLost() {
  const count = (series) => Object.keys(data.lost[series]).length, parts = [];
  if (count("references")) parts.push(`${number(count("references"))} of the references`);
  if (count("samples")) parts.push(`${number(count("samples"))} of the training pictures`);
  $("lost").hidden = !parts.length;
  $("lost").textContent = `${parts.join(" and ")} could not be read; placeholders are shown instead.`;
}

async function begin() {
  const [pairs, words, names] = await Promise.all(["pairs", "texts", "uids"].map((name) => load(`data/${name}.js`)));
  unpackAll(pairs);
  texts = words;
  ({ uids: sampleKeys, shards } = names);
  document.title = `${data.name} – review`;
  $("name").textContent = data.name;
  $("about").textContent = `${number(N)} references, nearest of ${number(data.samples_searched)} samples · ${data.model.name}`;
  $("about").title = $("about").textContent;
  list.append(sizer);
  saved(SERVED ? "No decision yet" : "Opened as a file: verdicts are saved in this browser", "");
  const kept = await earlier();
  wire();
  if (kept) {
    takeOver(kept, false);
    if (SERVED) savedThere(kept.who, kept.who && ` by ${kept.who}`);
    else saved(`Last saved by ${kept.who || "an unnamed person"}`, "kept");
  }
  tellLost();
  filter();
  readChart();
  drawPanel();
  select(0, 0);
  document.documentElement.dataset.ready = "";
}

begin().catch((error) => { say(`The page could not be loaded. ${error.message}`, true); clearTimeout(hush); throw error; });
