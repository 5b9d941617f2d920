/* Of a dVAE's page: its grids, and the map of the codes. Follows page.js.

   data.codes: how often each of K codes was chosen, and the layout of their pictures in #tiles. */

const SIZES = [40, 32, 24, 16]; // pixels of a code's picture on the map, if so many codes fit HIGHEST; else 8
const HIGHEST = 640; // pixels of the map
const BAR = 4; // pixels under a code's picture that show its usage, where there is room

slide((image, step) => {
  const grid = $("grid");
  grid.src = image.src;
  grid.hidden = false;
  const natural = Number(image.getAttribute("width")), whole = Math.floor(grid.parentElement.clientWidth / natural);
  grid.style.width = whole >= 1 ? `${Math.min(whole, 3) * natural}px` : "100%";
  grid.classList.toggle("shrunk", whole < 1);
  grid.alt = `Originals and reconstructions at step ${step}`;
});

/* ── Codes ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

function map({ counts, columns, tile }) {
  const canvas = $("codes"), context = canvas.getContext("2d"), zoom = $("zoom").getContext("2d"), tiles = $("tiles");
  const byUsage = counts.map((_, code) => code).sort((a, b) => counts[b] - counts[a] || a - b);
  const orders = { usage: byUsage, index: counts.map((_, code) => code) };
  const ranks = new Map(byUsage.map((code, place) => [code, place + 1]));
  const total = counts.reduce((sum, count) => sum + count, 0), most = counts[byUsage[0]];
  const strength = (count) => Math.log1p(count) / Math.log1p(most || 1);
  const view = { order: "usage", show: "pictures", at: null };
  let side, across; // pixels of a code's picture, codes in a row
  const wide = () => side + 1, bar = () => (side > 8 ? BAR : 0), high = () => side + 1 + bar();
  const source = (code) => [(code % columns) * tile, Math.floor(code / columns) * tile, tile, tile];
  const place = (at) => [(at % across) * wide(), Math.floor(at / across) * high()];

  function lay() {
    const room = canvas.parentElement.clientWidth;
    side = SIZES.find((size) => Math.ceil(counts.length / Math.floor(room / (size + 1))) * (size + 1 + BAR) <= HIGHEST) ?? 8;
    across = Math.min(counts.length, Math.floor(room / wide()));
    const size = [across * wide(), Math.ceil(counts.length / across) * high()], dense = devicePixelRatio || 1;
    [canvas.width, canvas.height] = size.map((pixels) => Math.round(pixels * dense));
    [canvas.style.width, canvas.style.height] = size.map((pixels) => `${pixels}px`);
    context.setTransform(dense, 0, 0, dense, 0, 0);
    draw();
  }

  function draw() {
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const colours = { used: colour("train"), unused: colour("raised"), cross: colour("bad"), outline: colour("ink"), bar: colour("val") };
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    orders[view.order].forEach((code, at) => drawCode(code, ...place(at), colours));
    if (view.at === null) return;
    const [x, y] = place(view.at);
    context.strokeStyle = colours.outline;
    context.lineWidth = 2;
    context.strokeRect(x - 1, y - 1, side + 2, side + 2);
  }

  function drawCode(code, x, y, colours) {
    const count = counts[code];
    context.fillStyle = colours.unused;
    context.fillRect(x, y, side, side);
    context.globalAlpha = count ? (view.show === "usage" ? 0.08 + 0.92 * strength(count) : 1) : 0.25;
    context.fillStyle = colours.used;
    if (view.show === "pictures") context.drawImage(tiles, ...source(code), x, y, side, side);
    else if (count) context.fillRect(x, y, side, side);
    context.globalAlpha = 1;
    if (!count) return strike(x, y, colours.cross);
    context.fillStyle = colours.bar;
    context.fillRect(x, y + side + 1, side * strength(count), bar() && bar() - 1);
  }

  /** The stroke through an unused code. */
  function strike(x, y, colour) {
    context.strokeStyle = colour;
    context.lineWidth = side > 8 ? 1.5 : 1;
    context.globalAlpha = side > 8 ? 1 : 0.6;
    context.beginPath();
    context.moveTo(x, y + side);
    context.lineTo(x + side, y);
    context.stroke();
    context.globalAlpha = 1;
  }

  function point(at) {
    view.at = at;
    draw();
    if (at === null) { read("rank", null); return; }
    const code = orders[view.order][at], count = counts[code], rank = ranks.get(code);
    zoom.imageSmoothingEnabled = false;
    zoom.drawImage(tiles, ...source(code), 0, 0, 48, 48);
    $("code").textContent = count
      ? `Code ${code}: chosen ${number(count)} times, ${((100 * count) / total).toFixed(3)}% of all; rank ${number(rank)} of ${number(counts.length)}`
      : `Code ${code}: unused`;
    read("rank", count ? rank : null);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / wide()), row = Math.floor((event.clientY - box.top) / high());
    const at = row * across + column;
    if (column >= 0 && column < across && at >= 0 && at < counts.length && at !== view.at) point(at);
  });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (!by) return;
    event.preventDefault();
    point(clamp((view.at ?? -by) + by, 0, counts.length - 1));
  });
  for (const [name, buttons] of ["order", "show"].map((name) => [name, all(`[data-${name}]`)])) {
    for (const button of buttons) {
      button.addEventListener("click", () => {
        view[name] = button.dataset[name];
        view.at = null;
        buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        draw();
      });
    }
  }
  addEventListener("resize", lay);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  lay();
}

if (data.codes) {
  $("tiles").decode().then(() => {
    map(data.codes);
    document.body.classList.add("ready");
    document.documentElement.dataset.ready = "";
  });
} else {
  document.documentElement.dataset.ready = "";
}
