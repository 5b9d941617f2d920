"""The members of a tar by Python's tarfile, read once from its beginning to its end. No Beam, no pictures.

PAX, GNU and ustar names are tarfile's business. It takes a damaged header for the end of a tar; here it is told apart.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from typing import IO, Protocol

from gesso.dataset.members import BLOCK, DamagedTar

STEP = 1 << 20  # bytes that are skipped at once
BROKEN = (tarfile.TarError, ValueError, OverflowError)  # what tarfile raises for damaged headers


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TarInput:
    """A file as tarfile asks for it, read in one direction; hashes what it reads."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._sha256 = stream, hashlib.sha256()
        self.bytes = 0  # read so far
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        self.last = self._stream.read(size)
        self._sha256.update(self.last)
        self.bytes += len(self.last)
        return self.last

    def seek(self, place: int) -> None:
        """Skips to a place that is not read yet, or to the end of the file where it is shorter."""
        assert place >= self.bytes, place
        while self.bytes < place and self.read(min(STEP, place - self.bytes)):
            pass

    def tell(self) -> int:
        return self.bytes

    def sha256(self) -> str:
        return self._sha256.hexdigest()


class HeaderInput:
    """The same for a look at the headers alone: it seeks, and hashes nothing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        self.last = self._stream.read(size)
        return self.last


def iter_members(tar_input: TarInput | HeaderInput) -> Iterator[tarfile.TarInfo]:
    """The members, each while the input stands at its data, which may be read or left. Raises DamagedTar.

    Ends behind the first empty block, or at the end of the file (`last` is empty then).
    """
    name = ""
    try:
        tar = tarfile.TarFile(fileobj=tar_input, encoding="utf-8")  # type: ignore[arg-type]
        while member := tar.next():
            name = member.name
            yield member
            tar.members.clear()  # type: ignore[attr-defined]
    except BROKEN as error:
        raise DamagedTar(_fault(tar_input, name, error)) from error
    if tar_input.last.strip(b"\0") and len(tar_input.last) < BLOCK:
        raise DamagedTar(f"is cut off behind {name}")
    if tar_input.last.strip(b"\0"):
        raise DamagedTar(f"is no tar from byte {tar_input.tell() - len(tar_input.last):,} on")


def read_rest(tar_input: TarInput) -> None:
    """Reads to the end of the file behind the last member. Raises DamagedTar where there is more than padding."""
    while block := tar_input.read(STEP):
        if block.strip(b"\0"):
            raise DamagedTar(
                f"goes on behind its end, within {len(block):,} bytes before byte {tar_input.bytes:,} "
                "(tars are joined by `tar --concatenate`, not by `cat`)"
            )


def read_body(tar_input: TarInput, member: tarfile.TarInfo) -> bytes:
    """The data of the member that the input stands at. Raises DamagedTar."""
    body = tar_input.read(member.size)
    if len(body) != member.size:
        raise DamagedTar(f"is cut off in {member.name}")
    return body


def _fault(tar_input: TarInput | HeaderInput, name: str, error: Exception) -> str:
    """`name`: of the last member."""
    if str(error) == "unexpected end of data":  # tarfile's words
        return f"is cut off in {name or 'its first member'}"
    return f"is damaged before byte {tar_input.tell():,} ({error})"
