"""The whole command on a loopback web: what it writes, that it goes on where it stopped, what it says to mistakes."""

import csv
import gzip
import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gesso import cli
from tests import servers
from tests.datasets import picture, rename_as_before
from tests.servers import Routes, Web, serve

CAPTION = "a picture of the number {}, drawn by hand"
FLAGS = ("--image_size", "32", "--min_side", "16", "--shard_size", "8", "--retries", "0")


def routes() -> Routes:
    pictures: Routes = {f"/{n}.jpg": picture(n, 400 if n % 5 == 0 else 40) for n in range(30)}
    return {**pictures, "/30.jpg": b"no picture", "/31.jpg": servers.close_before}


def write_table(path: Path, web: Web) -> None:
    """34 links: 24 good, 6 panoramas, no picture, no answer, 2 missing; repeats, a bad caption, a row without link."""
    rows = [(web.url(f"/{n}.jpg"), CAPTION.format(n), n) for n in range(34)]
    rows += [*rows[:3], (rows[4][0], "another caption of the same picture", 99)]
    rows += [
        (web.url("/never.jpg"), "IMG_1234.JPG", 1),
        ("", CAPTION, 2),
        ("file:///etc/hostname", "a file of mine", 3),
    ]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("url", "caption", "n"), *rows])


@pytest.fixture(scope="module")
def web() -> Any:
    with serve(routes()) as server:
        yield server


@pytest.fixture(scope="module")
def table(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("links") / "links.csv"
    write_table(path, web)
    return path


@pytest.fixture(scope="module")
def collected(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run in one process wrote."""
    output = tmp_path_factory.mktemp("one") / "raw"
    assert collect(table, output) == 0
    return output


def collect(table: Path, output: Path, *more: str) -> int:
    return cli.main(["collect", "--input", str(table), "--output", str(output), *FLAGS, *more])


def contents(output: Path) -> dict[str, str]:
    """Checksums of all that is reproducible: everything but the clock in the markers."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_funnel_holds_every_row(collected: Path) -> None:
    manifest = json.loads((collected / "manifest.json").read_text())
    assert manifest["funnel"] == {
        "rows_read": 41,
        "success": 24,
        "repeat_link": 1,
        "repeat_pair": 3,
        "url_missing": 1,
        "aspect_ratio": 6,
        "caption_boilerplate": 1,
        "connection": 1,
        "http_404": 2,
        "not_an_image": 1,
        "url_invalid": 1,
    }
    assert sum(manifest["funnel"].values()) == 2 * manifest["funnel"]["rows_read"]
    assert manifest["samples"] == 24
    assert [shard["index"] for shard in manifest["shards"]] == [0, 1, 2, 3, 4]


def test_extra_columns_travel_and_settings_are_kept(table: Path, web: Web, tmp_path: Path) -> None:
    assert collect(table, tmp_path / "raw", "--extra_columns", "n", "--no-english") == 0
    rows = [row for path in (tmp_path / "raw").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {row["n"] for row in rows if row["url"] == web.url("/7.jpg")} == {"7"}
    settings = json.loads((tmp_path / "raw/manifest.json").read_text())["settings"]
    assert (settings["extra"], settings["english"], settings["shard_size"]) == (["n"], False, 8)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(table: Path, collected: Path, tmp_path: Path) -> None:
    """A run of its own interpreter, because Beam's subprocesses want one."""
    flags = ("--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
    command = [sys.executable, "-m", "gesso", "collect", "--input", str(table), "--output", f"{tmp_path}/raw"]
    subprocess.run([*command, *FLAGS, *flags], check=True, capture_output=True)
    assert contents(tmp_path / "raw") == contents(collected)


def test_a_finished_collection_is_left_alone(table: Path, collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in collected.rglob("*")}
    assert collect(table, collected) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in collected.rglob("*")} == before


def test_only_what_is_missing_is_done_again(table: Path, collected: Path, web: Web) -> None:
    before, asked = contents(collected), web.requests.copy()
    planned = pq.read_table(collected / "plan/00002.plan").to_pylist()
    (collected / "00002.tar").write_bytes(b"damaged")
    assert collect(table, collected) == 0
    assert contents(collected) == before
    assert {web.url(path) for path in web.requests - asked} == {
        pair["url"] for pair in planned if pair["reason"] is None
    }


def test_a_half_finished_collection_with_the_former_names_goes_on(table: Path, collected: Path, tmp_path: Path) -> None:
    output = tmp_path / "raw"
    shutil.copytree(collected, output)
    rename_as_before(output)
    for name in ("manifest.json", "00001_stats.json", "00003.tar"):
        (output / name).unlink()
    assert collect(table, output) == 0
    for ending in ("tar", "parquet"):
        assert [path.read_bytes() for path in sorted(output.glob(f"*.{ending}"))] == [
            path.read_bytes() for path in sorted(collected.glob(f"*.{ending}"))
        ]
    assert cli.main(["verify", str(output)]) == 0
    assert cli.main(["report", str(output), "--output", f"{tmp_path}/report.html"]) == 0


def test_links_without_captions(web: Web, tmp_path: Path) -> None:
    (tmp_path / "links.txt").write_text("".join(web.url(f"/{n}.jpg\n") for n in (1, 2, 1)) + "no link\n")
    assert collect(tmp_path / "links.txt", tmp_path / "raw") == 0
    funnel = json.loads((tmp_path / "raw/manifest.json").read_text())["funnel"]
    assert funnel == {"rows_read": 4, "success": 2, "repeat_pair": 1, "url_invalid": 1}
    rows = pq.read_table(tmp_path / "raw/00000.parquet").to_pylist()
    assert {(row["caption"], row["original_caption"]) for row in rows} == {("", None)}
    with tarfile.open(tmp_path / "raw/00000.tar") as tar:
        assert [member.size for member in tar if member.name.endswith(".txt")] == [0, 0]
    assert cli.main(["verify", str(tmp_path / "raw")]) == 0


def test_a_table_without_its_captions(table: Path, tmp_path: Path) -> None:
    assert collect(table, tmp_path / "raw", "--caption_column", "") == 0
    funnel = json.loads((tmp_path / "raw/manifest.json").read_text())["funnel"]
    assert {reason for reason in funnel if reason.startswith("caption_")} == set()
    assert funnel["repeat_pair"] == 4


def test_the_same_table_elsewhere_is_the_same_table(
    table: Path, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(table, tmp_path)
    assert collect(tmp_path / table.name, collected) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    (tmp_path / table.name).write_bytes(table.read_bytes().replace(b"by hand", b"by nobo"))
    assert collect(tmp_path / table.name, collected) == 2
    assert (
        "was begun with other settings: input: links.csv is not the same file (ends_sha256 " in capsys.readouterr().err
    )


def test_a_plan_that_names_its_tables_by_path_goes_on(
    table: Path, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "raw"
    shutil.copytree(collected, output)
    plan = json.loads((output / "plan.json").read_text())
    plan["input"] = [{"path": str(table), "bytes": table.stat().st_size}]
    (output / "plan.json").write_text(json.dumps(plan))
    (output / "manifest.json").unlink()
    assert collect(table, output) == 0
    assert json.loads((output / "manifest.json").read_text())["input"] == plan["input"]


def test_a_run_that_keeps_nothing_ends_with_a_warning(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(web.url(f"/{n}.jpg,a picture of nothing\n") for n in (32, 33)) + ",none\n"
    (tmp_path / "links.csv").write_text("url,caption\n" + rows)
    for _ in range(2):
        assert collect(tmp_path / "links.csv", tmp_path / "raw") == 0
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1] == (
            "warning: no picture was kept of 3 rows; most ended as http_404: The server no longer has the file."
        )


@pytest.mark.parametrize("path", ["/7.jpg", "/11.jpg"])
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    table: Path, collected: Path, tmp_path: Path, web: Web, path: str
) -> None:
    """The kill comes while a link's answer is held: in the middle of a shard."""
    asked, answer = threading.Event(), web.routes[path]

    async def hold(exchange: servers.Exchange) -> None:
        asked.set()
        await servers.stall(exchange)

    web.routes[path] = hold
    command = [sys.executable, "-m", "gesso", "collect", "--input", str(table), "--output", f"{tmp_path}/raw"]
    process = subprocess.Popen([*command, *FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert asked.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    web.routes[path] = answer
    assert not (tmp_path / "raw/manifest.json").exists()
    assert collect(table, tmp_path / "raw") == 0
    assert contents(tmp_path / "raw") == contents(collected)


def test_a_low_limit_of_open_files_costs_no_picture(tmp_path: Path) -> None:
    """Answers are held until fifty requests wait, and 256 files may be open: fewer than the links that could be."""
    links, waiting = 300, 50

    async def hold(exchange: servers.Exchange) -> None:
        if len(exchange.web.requests) >= waiting:
            exchange.web.released.set()
        await servers.held(picture(int(exchange.path[1:-4])))(exchange)

    with serve({f"/{number}.jpg": hold for number in range(links)}) as web:
        rows = [f"{web.url(path)},a picture to collect" for path in web.routes]
        (tmp_path / "links.csv").write_text("\n".join(["url,caption", *rows]))
        command = [sys.executable, "-m", "gesso", "collect", "--input", f"{tmp_path}/links.csv"]
        subprocess.run(
            [*command, "--output", f"{tmp_path}/raw", "--image_size", "32", "--min_side", "16"],
            check=True,
            capture_output=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        )
        assert waiting <= web.most_at_once < 256 // 3
    funnel = json.loads((tmp_path / "raw/manifest.json").read_text())["funnel"]
    assert funnel == {"rows_read": links, "success": links}


def test_without_a_network_nothing_is_written_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port, table = servers.closed_port(), tmp_path / "links.csv"
    rows = [f"http://127.1.0.{number}:{port}/a.jpg,a picture to collect" for number in range(1, 101)]
    table.write_text("\n".join(["url,caption", *rows]))
    for _ in range(2):
        assert collect(table, tmp_path / "raw", "--shard_size", "1000") == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("gesso: no network: ")
        assert list((tmp_path / "raw").glob("0*")) == []


NO_ROWS: dict[str, tuple[pa.Table | str, dict[str, int]]] = {
    "no-link.csv": ("url,caption\n,a dog here\n", {"url_missing": 1}),
    "null.parquet": (pa.table({"url": pa.nulls(2, pa.string()), "caption": ["a dog", "a cat"]}), {"url_missing": 2}),
    "of-null-type.parquet": (pa.table({"url": pa.nulls(3), "caption": pa.nulls(3)}), {"url_missing": 3}),
    "malformed.jsonl": ('{"url": null, "caption": "a dog"}\n{"url": \n[1]\n', {"malformed_row": 2, "url_missing": 1}),
    "header-alone.csv": ("url,caption\n", {}),
    "empty.parquet": (pa.table({"url": pa.nulls(0, pa.string()), "caption": pa.nulls(0, pa.string())}), {}),
}


@pytest.mark.parametrize("name", NO_ROWS)
@pytest.mark.parametrize("good", [0, 1], ids=["alone", "beside a good table"])
def test_a_table_without_one_usable_row(web: Web, tmp_path: Path, name: str, good: int) -> None:
    content, lost = NO_ROWS[name]
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        pq.write_table(content, tmp_path / name)
    (tmp_path / "good.csv").write_text(f"url,caption\n{web.url('/1.jpg')},a picture of the number one\n")
    assert collect(tmp_path / name, tmp_path / "raw", *(["--input", f"{tmp_path}/good.csv"] if good else [])) == 0
    funnel = json.loads((tmp_path / "raw/manifest.json").read_text())["funnel"]
    assert funnel == {"rows_read": good + sum(lost.values()), "success": good, **lost}


class TestMistakes:
    """One line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--input", "{t}/none-*.parquet"], "no file matches"),
            (["--input", "{t}/links.csv", "--url_column", "link"], "link"),
            (["--input", "{t}/links.csv", "--extra_columns", "author"], "author"),
            (["--input", "{t}/links.csv", "--image_size", "0"], "--image_size is 0: give 1 or more"),
            (["--input", "{t}/links.csv", "--imge_size", "3"], "unknown flag --imge_size"),
            (["--input", "{t}/broken.parquet"], "broken.parquet"),
        ],
    )
    def test_one_line(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
    ) -> None:
        (table.parent / "broken.parquet").write_bytes(b"PAR1 and no more")
        given = [item.format(t=table.parent) for item in argv]
        assert cli.main(["collect", *given, "--output", str(tmp_path / "raw")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("gesso: ")
        assert message in lines[0]
        assert not (tmp_path / "raw").exists()

    def test_changed_settings_are_refused_with_the_difference(
        self, table: Path, collected: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = contents(collected)
        assert collect(table, collected, "--jpeg_quality", "90", "--min_words", "4") == 2
        error = capsys.readouterr().err
        assert "min_words was 2, is 4; jpeg_quality was 95, is 90" in error
        assert contents(collected) == before

    def test_a_directory_with_other_things_in_it_is_refused(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        assert collect(table, tmp_path) == 2
        assert "already holds thesis.tex" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_table_that_breaks_in_its_middle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = "".join(f"http://a.example/{n}.jpg,a picture of the number {n}\n" for n in range(50_000))
        packed = gzip.compress(("url,caption\n" + rows).encode())
        (tmp_path / "links.csv.gz").write_bytes(packed[: len(packed) // 2])
        assert collect(tmp_path / "links.csv.gz", tmp_path / "raw") == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith(f"gesso: {tmp_path}/links.csv.gz: cannot be read")
        assert not (tmp_path / "raw/plan.json").exists()
