"""Which files are indexed, what both ends of each tell, and what a user is told of those that are no whole tars."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from gesso import storage
from gesso.errors import UserError
from gesso.pipelines.index import tars
from gesso.pipelines.index.tars import Ends, Tar
from gesso.storage import Found
from tests.tars import BLOCK, FORMATS, sample, samples, tar_bytes, write_tar

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
END = bytes(2 * BLOCK)


def written(folder: Path, name: str, data: bytes) -> Found:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return Found(str(folder / name), len(data))


class TestFind:
    def test_patterns_and_folders_each_once_by_path(self, tmp_path: Path) -> None:
        for name in ("b/1.tar", "b/0.tar", "a/2.tgz", "a/3.tar.zst", "a/00000.parquet", "a/00000_stats.json"):
            written(tmp_path, name, b"x")
        found = tars.find_tars([f"{tmp_path}/b/*.tar", f"{tmp_path}/b/1.tar", f"{tmp_path}/a"])
        assert [Path(each.path).name for each in found] == ["2.tgz", "3.tar.zst", "0.tar", "1.tar"]

    @pytest.mark.parametrize("pattern", ["b/*.tar", "b", "b/0.tar"])
    def test_none(self, tmp_path: Path, pattern: str) -> None:
        written(tmp_path, "b/00000.parquet", b"x")
        with pytest.raises(UserError) as error:
            tars.find_tars([f"{tmp_path}/{pattern}"])
        assert str(error.value) == (
            f"no tar matches '{tmp_path}/{pattern}': give tars, a pattern such as 'cc3m/*.tar', or their folder"
        )

    def test_a_link_to_another(self, tmp_path: Path) -> None:
        written(tmp_path, "0.tar", b"x")
        (tmp_path / "1.tar").symlink_to("0.tar")
        with pytest.raises(UserError) as error:
            tars.find_tars([f"{tmp_path}/*.tar"])
        assert str(error.value) == f"{tmp_path}/0.tar and {tmp_path}/1.tar are one file: leave one out"

    def test_of_another_filesystem(self) -> None:
        for name in ("1.tar", "0.tar", "0.json"):
            with storage.write_whole(f"memory://index-found/{name}") as stream:
                stream.write(tar_bytes(sample("a", 1)) + END)
        found = tars.find_tars(["memory://index-found/*.tar"])
        assert [each.path for each in found] == [f"memory://index-found/{name}" for name in ("0.tar", "1.tar")]
        assert tars.look(found[0]) == Ends("", "a")


class TestLook:
    @pytest.mark.parametrize("form", FORMATS)
    def test_a_whole_tar(self, tmp_path: Path, form: str) -> None:
        path = write_tar(tmp_path / "a.tar", [("._x.jpg", b"x"), *sample("d" * 50 + "/" + "k" * 90, 1)], form)
        assert tars.look(Found(str(path), path.stat().st_size)) == Ends("", "d" * 50 + "/" + "k" * 90)

    def test_the_first_member_is_larger_than_what_is_looked_at(self, tmp_path: Path) -> None:
        data = tar_bytes([("big.jpg", bytes(100_000) + b"x"), ("b.jpg", b"y")])
        assert tars.look(written(tmp_path, "a.tar", data + END)) == Ends("", "big")
        assert tars.look(written(tmp_path, "a.tar", tar_bytes([("README", b"x" * 100_000)]) + END)) == Ends("", None)

    @pytest.mark.parametrize("end", [b"", bytes(100), bytes(BLOCK)])
    def test_without_an_end(self, tmp_path: Path, end: bytes) -> None:
        found = written(tmp_path, "a.tar", tar_bytes(sample("a", 1)) + end)
        assert tars.look(found) == Ends("", "a", ended=bool(end))

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "a.tar", [])
        assert tars.look(Found(str(path), path.stat().st_size)) == Ends()

    @pytest.mark.parametrize(
        ("data", "fault"),
        [
            (b"", "is empty"),
            (b"PAR1\0\0\0\0...", r"is no tar: it begins with b'PAR1\x00\x00\x00\x00'"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
                "is a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)",
            ),
            (bytes(20_480), "holds zeros alone"),
            (tar_bytes(sample("a", 1))[:-BLOCK], "is cut off in a.json"),
            (tar_bytes(sample("a", 1))[:-700], "is cut off behind a.txt"),
            (tar_bytes(sample("a", 1)) + b"?" * BLOCK, "is no tar from byte 4,096 on"),
        ],
    )
    def test_faults(self, tmp_path: Path, data: bytes, fault: str) -> None:
        assert tars.look(written(tmp_path, "a.tar", data)).fault == fault

    @pytest.mark.parametrize("compression", PACK)
    def test_compressed(self, tmp_path: Path, compression: str) -> None:
        packed = PACK[compression](tar_bytes(samples(range(50))) + END)
        assert tars.look(written(tmp_path, "a.tar", packed)) == Ends(compression, "000000000")
        page = written(tmp_path, "b.tar", PACK[compression](b"<html>" * 300))
        assert tars.look(page).fault == "holds, compressed, what is no tar: it begins with b'<html><h'"
        assert tars.look(written(tmp_path, "c.tar", packed[:6])).fault.startswith("cannot be unpacked (")


class TestOpen:
    def test_numbers_names_and_sizes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_tar(tmp_path / f"{name}.tar", sample(name, 1))
        opened, _ = tars.open_tars(tars.find_tars([str(tmp_path)]), unpack=False)
        assert opened == [Tar(n, f"{tmp_path}/{name}.tar", 10_240, f"{name}.tar", "") for n, name in enumerate("ab")]

    def test_all_faults_are_told_at_once(self, tmp_path: Path) -> None:
        found = [written(tmp_path, f"{n}.tar", b"") for n in range(5)]
        write_tar(tmp_path / "5.tar", sample("a", 1))
        with pytest.raises(UserError) as error:
            tars.open_tars([*found, Found(str(tmp_path / "5.tar"), 10_240)], unpack=True)
        told = "; ".join(f"{tmp_path}/{n}.tar is empty" for n in range(3))
        assert str(error.value) == (
            f"5 of 6 files: {told} and 2 more: fetch them again, or leave them out of the pattern"
        )

    @pytest.mark.parametrize(
        ("compression", "command"), [("gz", "gunzip -k"), ("bz2", "bunzip2 -k"), ("xz", "unxz -k"), ("zst", "unzstd")]
    )
    def test_compressed_tars_are_to_be_unpacked(self, tmp_path: Path, compression: str, command: str) -> None:
        packed = PACK[compression](tar_bytes(sample("a", 1)) + END)
        found = written(tmp_path, f"a.tar.{compression}", packed)
        with pytest.raises(UserError) as error:
            tars.open_tars([found], unpack=False)
        assert str(error.value) == (
            f"{found.path} is compressed, so that no sample can be read alone: unpack by `{command} {found.path}`, "
            "or give --unpack to have copies written below --output"
        )
        (opened,), _ = tars.open_tars([found], unpack=True)
        assert (opened.name, opened.place("out")) == ("a.tar", "out/tars/a.tar")

    def test_two_tars_that_begin_with_one_key(self, tmp_path: Path) -> None:
        for name in ("0.tar", "1.tar"):
            write_tar(tmp_path / name, samples([0]))
        with pytest.raises(UserError) as error:
            tars.check_keys(*tars.open_tars(tars.find_tars([str(tmp_path)]), unpack=False))
        assert str(error.value) == (
            f"the key '000000000' is in {tmp_path}/0.tar and in {tmp_path}/1.tar: give --keys shard (and another "
            "--output, where this one is begun), so that keys begin with the name of their tar"
        )


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/a.tar", "/d/b.tar"], ["a.tar", "b.tar"]),
        (["/d/x/a.tar", "/d/y/a.tar", "/d/y/b.tar"], ["x/a.tar", "y/a.tar", "y/b.tar"]),
        (["/d/a.tar.gz", "/d/b.tgz", "/d/c.TAR.ZST", "/d/d.zst"], ["a.tar", "b.tar", "c.tar", "d.tar"]),
        (["s3://b/x/a.tar", "s3://b/y/a.tar"], ["x/a.tar", "y/a.tar"]),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    packed = ["gz" if path.lower().endswith(("z", "zst")) else "" for path in paths]
    assert tars.tar_names(paths, packed) == names


def test_a_tar_beside_its_compressed_one() -> None:
    with pytest.raises(UserError) as error:
        tars.tar_names(["/d/a.tar", "/d/a.tar.gz"], ["", "gz"])
    assert str(error.value) == "a.tar is given compressed and unpacked: leave one of both out of the pattern"


def test_an_input_is_known_by_names_and_sizes_wherever_it_is() -> None:
    def record(folder: str, size: int = 5) -> dict[str, object]:
        return tars.input_record(
            [Tar(0, f"{folder}/x/a.tar", 3, "x/a.tar", ""), Tar(1, f"{folder}/b.tar", size, "b", "")]
        )

    one, moved, other = record("/d"), record("/e/f"), record("/d", 6)
    assert (one["path"], one["tars"], one["bytes"], moved["path"]) == ("/d", 2, 8, "/e/f")
    assert one["files_sha256"] == moved["files_sha256"] != other["files_sha256"]
