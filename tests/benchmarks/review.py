"""How fluid the review's page is: `python tests/benchmarks/review.py [--references 40504]` prints a table.

Matches, captions and links are made up; the thumbnails are a few real ones under as many names as there are pictures.
Headless Chromium is driven as a person would; a frame is the time between two of its animation frames.
"""

import argparse
import hashlib
import http.client
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))
from gesso import images
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import overlap
from gesso.dedup.review import folder, server, thumbnails
from tests import reviews
from tests.serving import answering

CHROMIUM = "/usr/bin/chromium"
FRAMES = """async act => {
  const times = []; let last = performance.now(), running = true;
  const look = now => { times.push(now - last); last = now; if (running) requestAnimationFrame(look); };
  requestAnimationFrame(look);
  await (0, eval)(act)();
  running = false;
  return times.slice(1);
}"""
# An act is done in each frame: `n` counts the frames. `pairs` is the list, `row` the current row.
ACTS = {
    "nothing": (100, ""),
    "scroll by 120 px": (300, "pairs.scrollTop += 120"),
    "scroll by 2,000 px": (300, "pairs.scrollTop += 2000"),
    "drag the scrollbar": (200, "pairs.scrollTop = pairs.scrollHeight * n / 200"),
    "next pair (j)": (200, "press(row(), 'j')"),
    "verdict (d)": (200, "press(row(), 'd')"),
    "threshold slider": (150, "slider.value = 0.99 - n / 300; slider.dispatchEvent(new Event('input'))"),
    "filter by a word": (12, "words.value = 'dog 123'.slice(0, n % 8); press(words, 'Enter')"),
}
PAGE = """
const pairs = document.getElementById('list'), slider = document.getElementById('slider');
const words = document.getElementById('words'), row = () => document.querySelector('.row.current');
const press = (part, key) => part.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
const frame = () => new Promise(requestAnimationFrame);
const run = async (frames, act) => {
  const times = [];
  let last = await frame();
  for (let n = 0; n < frames; n++) { act(n); const now = await frame(); times.push(now - last); last = now; }
  return times;
};
"""
COSTS = {"script": ["ScriptDuration"], "layout": ["LayoutDuration", "RecalcStyleDuration"], "all": ["TaskDuration"]}


def prepare(root: Path, references: int, top_k: int, samples: int) -> overlap.Overlap:
    """An overlap of that size with its review, as `gesso match` and `gesso review` would leave it."""
    random = np.random.default_rng(0)
    names = [f"COCO_val2014_{number:012d}" for number in range(references)]
    keys = [hashlib.md5(str(number).encode()).hexdigest() for number in range(samples)]
    chosen = random.integers(0, samples, (references, top_k))
    scores = np.sort(random.beta(5, 3, (references, top_k)).astype(np.float32), axis=1)[:, ::-1]
    columns = {
        "reference_key": np.repeat(names, top_k),
        "rank": np.tile(np.arange(1, top_k + 1, dtype=np.int32), references),
        "uid": np.array(keys)[chosen.ravel()],
        "shard": np.zeros(chosen.size, np.int32),
        "similarity": scores.ravel(),
        "phash_distance": random.integers(0, 64, chosen.size, np.int32),
        "reference_view": np.zeros(chosen.size, np.int32),
    }
    write_metadata(root / "coco_embeddings", names, "images", None)
    write_metadata(root / "embeddings", keys, "shards", 0)
    table = pa.table(columns, pa.schema(MATCH_FIELDS))
    return overlap.read(reviews.write_matches(root, table, references, samples, top_k))


def write_metadata(embeddings: Path, keys: list[str], kind: str, shard: int | None) -> None:
    sides = dict.fromkeys(("width", "height", "original_width", "original_height"), 640)
    rows = [
        {
            "key": key,
            "image_path": f"{key}.jpg",
            "shard": shard,
            "caption": f"a dog number {number} runs along the water behind a man with a red umbrella",
            "url": f"https://pictures{number % 997}.example/uploads/2019/07/{number:09d}-large-photograph.jpg",
            **sides,
        }
        for number, key in enumerate(keys)
    ]
    reviews.write_embeddings(embeddings, [rows], {"kind": kind, "path": ""})


def link_thumbnails(target: Path, counts: dict[str, int]) -> None:
    """As many names as there are pictures, of a few real thumbnails."""
    bodies = [path.read_bytes() for path in reviews.REAL]
    small = [images.thumbnail(body, images.read_header(body), folder.NEAREST_SIDE) for body in bodies]
    for series, count in counts.items():
        for number in range(count):
            path = target / "thumbs" / series / thumbnails.thumbnail_name(number)
            if number % thumbnails.PER_FOLDER == 0:
                path.parent.mkdir(parents=True)
            if number % thumbnails.PER_FOLDER < len(small):
                path.write_bytes(small[number % thumbnails.PER_FOLDER])
            else:
                os.link(path.with_name(f"{number - len(small):06d}.jpg"), path)


@contextmanager
def serve(found: overlap.Overlap, target: str) -> Iterator[server.Server]:
    with server.Server(0, target, server.DecisionStore(found, target, "bench")) as listening, answering(listening):
        yield listening


def ask_for_thumbnails(port: int) -> None:
    """Prints what one costs over a connection that stays."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def one() -> None:
        connection.request("GET", f"/thumbs/samples/{thumbnails.thumbnail_name(3)}")
        connection.getresponse().read()

    times = [1000 * timed(one) for _ in range(500)]
    connection.close()
    print(f"a thumbnail, ms: median {np.median(times):.2f}, 95% {np.quantile(times, 0.95):.2f}")


def timed(act: Callable[[], Any]) -> float:
    started = perf_counter()
    act()
    return perf_counter() - started


def spent(session: Any) -> dict[str, float]:
    """Seconds that the page's main thread has worked so far, by kind."""
    told = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
    return {kind: sum(told[name] for name in names) for kind, names in COSTS.items()}


def measure(tab: Any) -> None:
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable")
    print(f"{'':20} {'frames':>6} {'median':>7} {'95%':>7} {'worst':>7}   script  layout  main thread, ms a frame")
    for name, (frames, act) in ACTS.items():
        tab.evaluate("document.getElementById('list').scrollTop = 0")
        before = spent(session)
        times = np.array(tab.evaluate(f"{PAGE} run({frames}, n => {{ {act} }})"))
        used = [1000 * (value - before[kind]) / frames for kind, value in spent(session).items()]
        waits = f"{np.median(times):7.1f} {np.quantile(times, 0.95):7.1f} {times.max():7.1f}"
        print(f"{name:20} {frames:6} {waits}  {used[0]:7.1f} {used[1]:7.1f} {used[2]:7.1f}", flush=True)
    heap = tab.evaluate("performance.memory.usedJSHeapSize / 2 ** 20")
    print(f"{tab.locator('.row').count()} rows in the document; {heap:.0f} MiB of JavaScript's heap")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--references", type=int, default=40_504)
    parser.add_argument("--top_k", type=int, default=8)
    parser.add_argument("--samples", type=int, default=300_000)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name:
        found = prepare(Path(name), given.references, given.top_k, given.samples)
        target = os.path.join(found.path, folder.FOLDER)
        folder.write_plan(target, found)
        distinct = len(found.matches["uid"].unique())
        link_thumbnails(Path(target), {"references": given.references, "samples": distinct})
        print(f"{given.references:,} references × {given.top_k}, {distinct:,} distinct samples")
        first, again = (timed(lambda: folder.prepare(found, None)) for _ in range(2))
        print(f"folder without making its pictures: {first:.1f} s; again: {again:.2f} s")
        with serve(found, target) as listening, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
            )
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            ready = timed(
                lambda: (tab.goto(listening.url), tab.wait_for_selector("html[data-ready]", state="attached"))
            )
            print(f"page ready after {ready:.2f} s")
            ask_for_thumbnails(listening.port)
            measure(tab)
            browser.close()


if __name__ == "__main__":
    main()
