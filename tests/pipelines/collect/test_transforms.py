"""The wiring in Beam: counters for everything counted, packed text across the shuffle and no image bytes."""

from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from gesso.pipelines import combiners
from gesso.pipelines.collect import job as collect
from tests.datasets import picture
from tests.servers import serve

FLAGS = ("--image_size", "32", "--min_side", "16", "--shard_size", "4", "--retries", "0")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job") / "raw"


@pytest.fixture(scope="module")
def result(output: Path) -> Any:
    """A run over ten links: six pictures, a panorama, a missing one, a bad caption, a repeat."""
    folder = output.parent
    routes = {f"/{n}.jpg": picture(n, 400 if n == 6 else 40) for n in range(7)}
    with serve(routes) as web:
        rows = [f"{web.url(f'/{n}.jpg')},a picture of the number {n}" for n in (*range(8), 0)]
        rows.append(f"{web.url('/9.jpg')},IMG_0001.JPG")
        (folder / "links.csv").write_text("\n".join(["url,caption", *rows]))
        job, _ = collect.parse(["--input", f"{folder}/links.csv", "--output", str(output), *FLAGS])
        pipeline = beam.Pipeline(runner=FnApiRunner())
        collect.build(pipeline, job, None)
        yield pipeline.run()


def test_everything_counted_is_a_counter(result: Any) -> None:
    counters = result.metrics().query()["counters"]
    ours = [(item.key.metric.name, item.committed) for item in counters if item.key.metric.namespace == "gesso"]
    assert sorted(ours) == [
        ("aspect_ratio", 1),
        ("caption_boilerplate", 1),
        ("http_404", 1),
        ("links", 8),
        ("repeat_link", 0),
        ("repeat_pair", 1),
        ("rows_read", 10),
        ("success", 6),
    ]


def test_files_and_times_are_distributions(result: Any, output: Path) -> None:
    found = result.metrics().query()["distributions"]
    ours = {item.key.metric.name: item.committed for item in found if item.key.metric.namespace == "gesso"}
    files = [path for pattern in ("0*.tar", "0*.parquet", "rejected/*") for path in output.glob(pattern)]
    assert (ours["shard_seconds"].count, ours["file_bytes"].count) == (3, 9)
    assert ours["file_bytes"].sum == sum(path.stat().st_size for path in files)


def test_total_adds_counts_in_any_grouping() -> None:
    counts = [{"a": 1, "b": 2}, {"a": 3}, {}]
    assert combiners.total(counts) == {"a": 4, "b": 2}
    assert combiners.total([combiners.total(counts[:1]), combiners.total(counts[1:])]) == Counter(a=4, b=2)


def test_no_image_bytes_cross_a_shuffle(result: Any, tmp_path: Path) -> None:
    """What is grouped or reshuffled in the graph: units, packed pairs, counts and shard numbers."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    (tmp_path / "links.csv").write_text("url,caption\nhttp://a.example/1.jpg,a picture of one\n")
    job, _ = collect.parse(["--input", f"{tmp_path}/links.csv", "--output", f"{tmp_path}/raw"])
    collect.build(pipeline, job, None)
    after_fetch: list[str] = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node: Any) -> None:
            if "CollectShards" in node.full_label:
                after_fetch.extend(str(output.element_type) for output in node.outputs.values())

    pipeline.visit(Visitor())
    assert after_fetch == ["Dict[<class 'str'>, <class 'int'>]"]
