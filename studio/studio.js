"use strict";

const $ = (id) => document.getElementById(id);
const RETRY = 2000; // milliseconds until a lost server is asked again
const still = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 47rem)");

/* ── The server ───────────────────────────────────────────────────────────────────────────────────────────────────── */

let about = null; // what does not change while the server runs: its model, limits, folders, token

async function read(path) {
  const answer = await fetch(path);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

/** Writes; a server that was started again gave out another token. Throws an Error with the server's one line. */
async function write(path, value, again = true) {
  const headers = { "Content-Type": "application/json", "X-Gesso-Token": about.token };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
  if (answer.status === 403 && again) {
    about = await read("/about");
    return write(path, value, false);
  }
  const reply = await answer.json();
  if (!answer.ok) throw new Error(reply.error);
  return reply;
}

/** The line that tells what went wrong; fetch fails with a TypeError where nothing answers. */
function wrongOf(error) {
  return error instanceof TypeError ? "`gesso studio` does not answer: start it again." : sentence(error.message);
}

/* ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}` : "");
const count = (number) => number.toLocaleString("en");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const scoreText = (score) => (score === null || score === undefined ? "" : score.toFixed(3));

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function put(part, text) {
  if (part.textContent !== text) part.textContent = text;
}

function say(text) {
  $("said").textContent = text;
}

/* ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────── */

const runs = new Map(); // by id, as the server told them last
let order = []; // their ids, the oldest first
let chosen = ""; // the run whose candidates are shown
let wanted = ""; // the run that was just asked for: chosen as soon as the server tells of it

const runOf = (id) => runs.get(id);
const isWhole = (run, index) => run.rows[index] === about.model.grid;
const isEnded = (run) => run.state !== "waiting" && run.state !== "drawing";
const pictureOf = (run, index) => `/runs/${run.id}/${index}.png`;

/** Indices of the candidates, by falling score; those without one stay in their order behind. */
function ranked(run) {
  const known = (index) => (run.scores[index] === null ? -Infinity : run.scores[index]);
  const byScore = (one, other) => (known(one) === known(other) ? one - other : known(other) - known(one));
  return run.rows.map((_, index) => index).sort(byScore);
}

function listen() {
  const events = new EventSource("/events");
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onopen = () => { $("lost").hidden = true; };
  events.onerror = () => {
    $("lost").hidden = false;
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, RETRY);
  };
}

/** Takes what has changed, and draws it. */
function take(changes) {
  const before = runOf(chosen);
  order = changes.order;
  for (const run of changes.runs) runs.set(run.id, run);
  for (const id of runs.keys()) if (!order.includes(id)) runs.delete(id);
  if (runs.has(wanted)) [chosen, wanted] = [wanted, ""];
  if (!runs.has(chosen)) chosen = order.at(-1) || "";
  const run = runOf(chosen);
  drawRuns();
  drawRun(run);
  if (run && before && before.id === run.id && before.state !== run.state && isEnded(run)) sayEnd(run);
}

function sayEnd(run) {
  if (run.state !== "done") return say(stateOf(run));
  const best = ranked(run)[0];
  const told = run.scores[best] === null ? "" : `, the best has the seed ${run.seeds[best]} and the score ${scoreText(run.scores[best])}`;
  say(`${plural(run.rows.length, "candidate")} drawn${told}`);
}

function stateOf(run) {
  const whole = run.rows.filter((_, index) => isWhole(run, index)).length;
  if (run.state === "waiting") {
    const before = order.slice(0, order.indexOf(run.id)).filter((id) => !isEnded(runOf(id))).length;
    return `Waiting, ${before} before it`;
  }
  if (run.state === "drawing") return `Drawing, ${whole} of ${run.rows.length}`;
  if (run.state === "stopped") return `Stopped at ${whole} of ${run.rows.length}`;
  return run.state === "failed" ? "Failed" : `${plural(run.rows.length, "candidate")}`;
}

function drawRuns() {
  const items = new Map([...$("runs").children].map((item) => [item.dataset.id, item]));
  const shown = [...order].reverse().map((id) => drawItem(items.get(id) || makeItem(id), runOf(id)));
  for (const [id, item] of items) if (!runs.has(id)) item.remove();
  shown.forEach((item, place) => { if ($("runs").children[place] !== item) $("runs").insertBefore(item, $("runs").children[place] || null); });
}

function makeItem(id) {
  const item = element("li"), button = element("button");
  item.dataset.id = id;
  button.type = "button";
  button.append(element("span", "", "thumb"), element("span", "", "text"), element("span", "", "state"));
  button.children[1].dir = "auto";
  button.addEventListener("click", () => choose(id));
  item.append(button);
  return item;
}

function drawItem(item, run) {
  const button = item.firstElementChild, [thumb, text, state] = button.children;
  put(text, run.caption);
  put(state, stateOf(run));
  state.className = `state ${run.state}`;
  if (run.id === chosen) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
  const best = ranked(run)[0];
  showPicture(thumb, run, best);
  return item;
}

function choose(id) {
  chosen = id;
  drawRuns();
  drawRun(runOf(id));
}

/** Puts a candidate's picture into a part, once it is loaded, so that nothing flickers. */
function showPicture(part, run, index) {
  const rows = run.rows[index], address = rows ? `${pictureOf(run, index)}?rows=${rows}` : "";
  if (part.dataset.address === address) return;
  part.dataset.address = address;
  if (!address) return part.replaceChildren();
  const image = new Image();
  image.alt = "";
  image.src = address;
  const show = () => { if (part.dataset.address === address) part.replaceChildren(image); };
  image.decode().then(show, () => {}); // a picture of a run that is forgotten meanwhile is not there
}

/* ── The chosen run ───────────────────────────────────────────────────────────────────────────────────────────────── */

const cells = []; // by the candidate's index
let shownRun = ""; // whose candidates the cells are

function drawRun(run) {
  $("run").hidden = !run;
  $("empty").hidden = Boolean(run);
  if (!run) return makeCells(null);
  put($("run-caption"), run.caption);
  drawFacts(run);
  put($("run-error"), run.state === "failed" ? sentence(run.error) : "");
  $("stop").hidden = isEnded(run);
  $("progress").classList.toggle("ended", isEnded(run));
  const kept = run.start ? run.start.rows : 0, all = run.rows.length * (about.model.grid - kept);
  $("progress").max = all;
  $("progress").value = run.rows.reduce((sum, rows) => sum + Math.max(0, rows - kept), 0);
  if (shownRun !== run.id) makeCells(run);
  run.rows.forEach((_, index) => drawCell(run, index));
  sortCells(run);
  if (viewer.run === run.id && $("viewer").open) drawViewer();
}

function drawFacts(run) {
  const facts = [
    stateOf(run),
    `seeds ${run.seeds[0]}${run.seeds.length > 1 ? `–${run.seeds.at(-1)}` : ""}`,
    run.start ? `continued from ${run.start.text}, ${plural(run.start.rows, "row")} kept` : "",
    ...samplingOf(run),
  ];
  const text = facts.filter(Boolean);
  if ($("run-facts").dataset.text === text.join()) return;
  $("run-facts").dataset.text = text.join();
  $("run-facts").replaceChildren(...text.map((each) => element("span", each)));
}

/** The settings that are not the usual ones. */
function samplingOf(run) {
  return [
    run.temperature === 1 ? "" : `temperature ${run.temperature}`, run.top_k ? `top-k ${run.top_k}` : "", run.top_p === 1 ? "" : `top-p ${run.top_p}`,
  ];
}

function makeCells(run) {
  shownRun = run ? run.id : "";
  cells.length = 0;
  if (run) for (const index of run.rows.keys()) cells.push(makeCell(index));
  $("grid").replaceChildren(...cells.map((cell) => cell.root));
  cells.placed = run ? [...cells.keys()] : [];
}

function makeCell(index) {
  const root = $("cell").content.cloneNode(true).firstElementChild, part = (name) => root.querySelector(name);
  const cell = { root, button: part("button"), picture: part(".picture"), rank: part(".rank"), score: part(".score"), seed: part(".seed") };
  cell.button.addEventListener("click", () => openCandidate(index));
  return cell;
}

function drawCell(run, index) {
  const cell = cells[index], whole = isWhole(run, index);
  showPicture(cell.picture, run, index);
  cell.root.classList.toggle("growing", run.rows[index] > 0 && !whole);
  cell.button.disabled = !whole;
  put(cell.seed, run.seeds[index]);
  put(cell.score, scoreText(run.scores[index]));
}

/** Puts the cells in the order of their scores; each glides to its new place. */
function sortCells(run) {
  const places = ranked(run);
  places.forEach((index, place) => {
    const cell = cells[index], scored = run.scores[index] !== null;
    put(cell.rank, scored ? String(place + 1) : "");
    cell.root.classList.toggle("best", scored && place === 0);
    cell.button.setAttribute("aria-label", labelOf(run, index, place));
  });
  if (places.every((index, place) => cells.placed[place] === index)) return;
  const before = cells.map((cell) => cell.root.getBoundingClientRect()), focused = document.activeElement;
  $("grid").append(...places.map((index) => cells[index].root));
  if ($("grid").contains(focused)) focused.focus({ preventScroll: true });
  cells.placed = places;
  if (!still.matches) cells.forEach((cell, index) => glide(cell.root, before[index]));
}

function glide(root, before) {
  const after = root.getBoundingClientRect(), x = before.left - after.left, y = before.top - after.top;
  if (x || y) root.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], { duration: 500, easing: "cubic-bezier(.2, .7, .2, 1)" });
}

function labelOf(run, index, place) {
  if (!isWhole(run, index)) return `Seed ${run.seeds[index]}, ${run.rows[index]} of ${about.model.grid} rows drawn`;
  const score = run.scores[index] === null ? "" : `, rank ${place + 1}, score ${scoreText(run.scores[index])}`;
  return `Open seed ${run.seeds[index]}${score}`;
}

/* ── What to draw ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/** A field's number; what is none goes to the server as it is, which tells what it wants. */
function numberOf(id) {
  const text = $(id).value.trim();
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** What is asked for by a caption and the fields of a number and of a seed; no seed is a random one. */
function request(caption, n, seed, start = null) {
  const sampling = { temperature: numberOf("temperature"), top_k: numberOf("top_k"), top_p: numberOf("top_p") };
  return { caption: $(caption).value, n: numberOf(n), ...sampling, seed: $(seed).value.trim() === "" ? null : numberOf(seed), start };
}

/** Sends a request; returns whether it was taken. A mistake is told in `wrong`. */
async function ask(value, wrong, button) {
  put(wrong, "");
  button.disabled = true;
  try {
    wanted = (await write("/draw", value)).id;
    if (runs.has(wanted)) { choose(wanted); wanted = ""; }
    return true;
  } catch (error) {
    put(wrong, wrongOf(error));
    return false;
  } finally {
    button.disabled = false;
  }
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const taken = await ask(request("caption", "n", "seed"), $("wrong"), $("go"));
  if (!taken) return $("caption").focus();
  if (narrow.matches) $("run").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
});

for (const [field, form] of [["caption", "form"], ["next-caption", "continuing"]]) {
  $(field).addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $(form).requestSubmit();
  });
}

$("n-slider").addEventListener("input", () => { $("n").value = $("n-slider").value; });
$("n").addEventListener("input", () => { $("n-slider").value = $("n").value; });
$("stop").addEventListener("click", () => write("/stop", { run: chosen }).catch((error) => put($("run-error"), wrongOf(error))));

/* ── One picture ──────────────────────────────────────────────────────────────────────────────────────────────────── */

// `items` are pictures that can be stepped through: {key, src, file, caption, seed, score, facts, start}.
const viewer = { run: "", items: [], key: "" };

const current = () => viewer.items.find((item) => item.key === viewer.key);

function openCandidate(index) {
  viewer.run = chosen;
  openViewer(String(index));
}

function openViewer(key) {
  viewer.key = key;
  fold();
  drawViewer();
  if (!$("viewer").open) $("viewer").showModal();
}

/** The whole candidates of a run, the best first. */
function candidatesOf(run) {
  const places = ranked(run).filter((index) => isWhole(run, index));
  return places.map((index, place) => ({
    key: String(index), src: `${pictureOf(run, index)}?rows=${run.rows[index]}`, href: pictureOf(run, index), caption: run.caption,
    seed: run.seeds[index], score: run.scores[index], rank: place + 1,
    facts: [["Continued from", run.start ? `${run.start.text}, ${plural(run.start.rows, "row")}` : ""], ["Sampling", samplingOf(run).filter(Boolean).join(", ")]],
    start: { run: run.id, index },
  }));
}

function drawViewer() {
  if (runs.has(viewer.run)) viewer.items = candidatesOf(runOf(viewer.run)); // else it is forgotten, or of a folder
  const item = current(), place = viewer.items.indexOf(item);
  if ($("large").getAttribute("src") !== item.src) $("large").src = item.src;
  $("large").alt = item.caption || "Your picture";
  put($("viewer-caption"), item.caption || "Your picture");
  const score = item.score === null || item.score === undefined ? "" : `${scoreText(item.score)}, rank ${item.rank} of ${viewer.items.length}`;
  const facts = [["Seed", item.seed], ["Score", score], ...item.facts].filter(([, text]) => text);
  $("viewer-facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text, name === "Seed" ? "code" : "")]));
  $("copy").hidden = !item.seed;
  $("download").hidden = !item.href;
  if (item.href) {
    $("download").href = item.href;
    $("download").download = `${item.caption.replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60)}_${item.seed}.png`;
  }
  $("before").disabled = place <= 0;
  $("after").disabled = place >= viewer.items.length - 1;
  put($("place"), viewer.items.length > 1 ? `${place + 1} of ${viewer.items.length}` : "");
  document.querySelector(".steps").hidden = viewer.items.length < 2;
}

function step(by) {
  const item = viewer.items[viewer.items.indexOf(current()) + by];
  if (!item) return;
  viewer.key = item.key;
  drawViewer();
}

$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });
$("viewer").addEventListener("close", () => { viewer.run = ""; });
$("viewer").addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

$("copy").addEventListener("click", async () => {
  await copy(current().seed);
  put($("copy"), "Copied");
  say(`Seed ${current().seed} copied`);
  setTimeout(() => put($("copy"), "Copy seed"), 1500);
});

/** Into the clipboard; where a browser does not allow that, by a selected field, as ever. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) {
    const field = element("textarea");
    field.value = text;
    field.className = "unseen";
    $("viewer").append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    $("copy").focus();
  }
}

/* ── Continuing a picture ─────────────────────────────────────────────────────────────────────────────────────────── */

$("continue").addEventListener("click", () => ($("continuing").hidden ? unfold() : fold()));

function fold() {
  for (const id of ["continuing", "rows", "shade"]) $(id).hidden = true;
  $("continue").setAttribute("aria-expanded", "false");
}

function unfold() {
  for (const id of ["continuing", "rows", "shade"]) $(id).hidden = false;
  $("continue").setAttribute("aria-expanded", "true");
  $("rows").max = about.model.grid;
  $("next-caption").value = current().caption || $("caption").value;
  put($("next-wrong"), "");
  setRows(Math.round(about.model.grid / 2));
  $("rows").focus({ focusVisible: true });
}

function setRows(rows) {
  const grid = about.model.grid, kept = Math.min(Math.max(rows, 1), grid - 1);
  $("rows").value = kept;
  $("rows").setAttribute("aria-valuetext", `${kept} of ${grid} rows`);
  $("shade").style.height = `${100 * (1 - kept / grid)}%`;
  put($("kept"), `${kept} of ${grid} rows are kept.`);
}

$("rows").addEventListener("input", () => setRows(Number($("rows").value)));
$("rows").addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return; // down is further down, though it is less for a slider
  event.preventDefault();
  setRows(Number($("rows").value) + by);
});

$("continuing").addEventListener("submit", async (event) => {
  event.preventDefault();
  const item = current(), start = { rows: Number($("rows").value), ...(item.start || { picture: await base64Of(item.src) }) };
  const taken = await ask(request("next-caption", "next-n", "next-seed", start), $("next-wrong"), $("next-go"));
  if (!taken) return;
  put($("wrong"), "");
  $("viewer").close();
  location.hash = "#/draw";
});

/** A picture's bytes, for the server. */
async function base64Of(address) {
  const blob = await (await fetch(address)).blob();
  return (await dataOf(blob)).replace(/^[^,]*,/, "");
}

function dataOf(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

$("own").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (!file) return;
  put($("wrong"), "");
  const src = await dataOf(file);
  viewer.items = [{ key: "own", src, caption: "", seed: "", score: null, facts: [["File", file.name]], start: { picture: src.replace(/^[^,]*,/, "") } }];
  openViewer("own");
  unfold();
  $("next-caption").focus();
});

/* ── Browsing ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

const browsing = { folder: 0, start: 0, asked: 0 };

async function openFolder() {
  browsing.folder = Number($("folder").value);
  const told = about.folders[browsing.folder];
  $("evaluation").hidden = !told.evaluation;
  if (told.evaluation) read(`/folders/${browsing.folder}/evaluation`).then(drawEvaluation, (error) => put($("sides"), wrongOf(error)));
  await list(true);
}

/** Lists the next captions, or, afresh, the first ones. */
async function list(afresh) {
  if (afresh) browsing.start = 0;
  const asked = ++browsing.asked, words = encodeURIComponent($("words").value);
  const found = await read(`/folders/${browsing.folder}?from=${browsing.start}&words=${words}`);
  if (asked !== browsing.asked) return; // another list was asked for meanwhile
  if (afresh) $("captions").replaceChildren();
  $("captions").append(...found.captions.map(drawCaption));
  browsing.start += found.captions.length;
  put($("found"), about.folders[browsing.folder].captions ? plural(found.total, "caption") : "");
  $("more").hidden = browsing.start >= found.total;
}

function drawCaption(found) {
  const section = element("section", "", "caption"), title = element("h3", found.caption), grid = element("ol", "", "grid");
  title.dir = "auto";
  const base = `/folders/${browsing.folder}/pictures/`;
  const items = found.pictures.map((picture) => {
    const address = base + picture.file.split("/").map(encodeURIComponent).join("/");
    return { key: address, src: address, href: address, caption: found.caption, seed: picture.seed, score: picture.score, rank: picture.rank + 1, facts: [] };
  });
  grid.append(...items.map((item) => drawPicture(item, items)));
  section.append(title, grid);
  return section;
}

function drawPicture(item, items) {
  const root = $("cell").content.cloneNode(true).firstElementChild, part = (name) => root.querySelector(name), image = new Image();
  image.loading = "lazy";
  image.alt = "";
  image.src = item.src;
  part(".picture").append(image);
  put(part(".rank"), item.score === null ? "" : String(item.rank));
  put(part(".score"), scoreText(item.score));
  put(part(".seed"), item.seed);
  part("button").setAttribute("aria-label", `Open seed ${item.seed}${item.score === null ? "" : `, rank ${item.rank}, score ${scoreText(item.score)}`}`);
  part("button").addEventListener("click", () => {
    viewer.items = items;
    openViewer(item.key);
  });
  return root;
}

/* ── An evaluation ────────────────────────────────────────────────────────────────────────────────────────────────── */

const FIGURES = { fid: ["FID", 2, 1], inception_score: ["Inception Score", 2, 1], kid: ["KID × 1,000", 3, 1000], clip_score: ["CLIP score", 2, 1] };

function drawEvaluation(told) {
  const side = (name) => `${plural(told[name].pictures, "picture")} of ${told[name].name}`;
  put($("sides"), `${side("generated")} against ${side("reference")}. Intervals of 95%.`);
  $("notes").replaceChildren(...(told.notes || []).map((note) => element("li", note)));
  const names = Object.keys(FIGURES).filter((name) => told.rows.some((row) => row[name]));
  const head = ["Pictures", "Blur, pixels", ...names.map((name) => name === "fid" ? told.distance : FIGURES[name][0])].map((text) => {
    const cell = element("th", text);
    cell.scope = "col";
    return cell;
  });
  const row = element("tr");
  row.append(...head);
  $("figures").tHead.replaceChildren(row);
  $("figures").tBodies[0].replaceChildren(...told.rows.map((each) => drawFigures(each, names)));
  $("chart").src = `/folders/${browsing.folder}/evaluation.png`;
  $("chart").onload = () => { $("chart").hidden = false; };
}

function drawFigures(row, names) {
  const line = element("tr"), head = element("th", row.pictures);
  head.scope = "row";
  head.append(element("small", `${count(row.generated)} and ${count(row.reference)}`));
  line.append(head, element("td", String(row.blur)), ...names.map((name) => drawFigure(row[name], FIGURES[name])));
  return line;
}

function drawFigure(figure, [, digits, scale]) {
  if (!figure) return element("td", "–");
  const [value, low, high] = [figure.value, figure.low, figure.high].map((each) => (each * scale).toFixed(digits));
  const cell = element("td", value);
  cell.append(element("small", `${low} to ${high}`));
  return cell;
}

/* ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

function show() {
  const browsingNow = location.hash === "#/browse";
  $("draw").hidden = browsingNow;
  $("browse").hidden = !browsingNow;
  for (const [id, is] of [["to-draw", !browsingNow], ["to-browse", browsingNow]]) {
    if (is) $(id).setAttribute("aria-current", "page"); else $(id).removeAttribute("aria-current");
  }
  document.title = browsingNow ? "Browse – Studio" : "Studio";
}

function describeModel() {
  const { grid, side, ranker } = about.model;
  return `${grid}×${grid} codes, ${side}×${side} pixels, ${ranker ? `ranked by ${ranker}` : "no ranker: in the order of the seeds"}`;
}

async function start() {
  about = await read("/about");
  put($("model"), describeModel());
  for (const [name, value] of Object.entries(about.model.sampling)) $(name).value = value;
  $("empty-scores").hidden = !about.model.ranker;
  $("settings").open = !narrow.matches;
  $("folder").append(...about.folders.map((folder, index) => new Option(folder.path, index)));
  if (about.folders.length) openFolder(); else nothingToBrowse();
  listen();
  show();
  document.documentElement.dataset.ready = "";
}

function nothingToBrowse() {
  document.querySelector(".browse .bar").hidden = true;
  $("nothing").hidden = false;
  put($("nothing"), "Start `gesso studio --generated out/` to look at what `gesso generate` and `gesso evaluate` have written.");
}

$("folder").addEventListener("change", openFolder);
$("words").addEventListener("input", () => list(true));
$("more").addEventListener("click", () => list(false));
addEventListener("hashchange", show);
start();
