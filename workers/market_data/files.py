"""Opening what market data is kept in: plain files, gzip, zip archives, zips within zips.

Everything is read as a stream. What the compression layers raise (a cut file, a wrong checksum, a
password) becomes a MarketDataError that names file and member.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from workers.market_data.errors import MarketDataError

FETCH_AGAIN: Final = "fetch it again"
_IGNORED = ("__MACOSX", ".DS_Store", "Thumbs.db")
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    RuntimeError,  # a member with a password
    NotImplementedError,  # a compression that Python does not know
    OSError,  # bz2 says so, and a disk that fails
)


@dataclass(frozen=True, slots=True)
class Location:
    """A file, or a member of an archive: what errors name."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """Name without folders."""
        return PurePosixPath(self.member.rpartition("!")[2]).name or self.path.name

    def error(
        self, found: str, *, expected: str, remedy: str = FETCH_AGAIN, line: int = 0
    ) -> MarketDataError:
        """Say what is wrong here."""
        return MarketDataError(
            self.path, member=self.member, line=line, found=found, expected=expected, remedy=remedy
        )


class Stream:
    """The bytes of one place; `read` raises MarketDataError alone."""

    def __init__(self, location: Location, file: IO[bytes]) -> None:
        """Read from `file`, whoever made it closes it."""
        self.location = location
        self._file = file
        self._unread = b""

    def unread(self, data: bytes) -> None:
        """Put bytes back: the next `read` returns them, whatever its size."""
        self._unread = data

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; empty at the end.

        Raises:
            MarketDataError: The file is damaged or cannot be read.
        """
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            return self._file.read(size)
        except _BROKEN as error:
            raise _broken(self.location, error) from error


def members(path: Path) -> Iterator[Stream]:
    """Every file in `path`, which is a zip (however many `.zip` its name ends with), gzip or plain.

    Members in folders count; folders themselves and what archivers leave behind do not.

    Raises:
        MarketDataError: A file is damaged or cannot be read.
    """
    if zipfile.is_zipfile(path) or ".zip" in (s.lower() for s in path.suffixes[-1:]):
        yield from _zip_members(Location(path), path)
        return
    with opened(path) as stream:
        yield stream


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """Open one file, plain or gzip by its first bytes.

    Raises:
        MarketDataError: The file is damaged or cannot be read.
    """
    location = Location(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            yield Stream(location, file)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _broken(location, error) from error
        raise _unreadable(path, error) from error


def _zip_members(location: Location, source: Path | IO[bytes]) -> Iterator[Stream]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, EOFError) as error:
        raise _broken(location, error) from error
    except OSError as error:
        raise _unreadable(location.path, error) from error
    with archive:
        for info in archive.infolist():
            parts = PurePosixPath(info.filename).parts
            if info.is_dir() or any(part in _IGNORED for part in parts):
                continue
            inner = Location(location.path, f"{location.member}!{info.filename}".lstrip("!"))
            try:
                file = archive.open(info)
            except _BROKEN as error:
                raise _broken(inner, error) from error
            with file:
                if info.filename.lower().endswith(".zip"):
                    yield from _nested(inner, file)
                else:
                    yield Stream(inner, file)


def _nested(location: Location, file: IO[bytes]) -> Iterator[Stream]:
    """Members of a zip within a zip: its directory is at its end, so it is unpacked first."""
    with tempfile.TemporaryFile() as unpacked:
        try:
            shutil.copyfileobj(file, unpacked)
        except _BROKEN as error:
            raise _broken(location, error) from error
        yield from _zip_members(location, unpacked)


def _broken(location: Location, error: Exception) -> MarketDataError:
    text = str(error) or type(error).__name__
    return location.error(f"cannot be unpacked ({text})", expected="a whole zip or gzip file")


def _unreadable(path: Path, error: OSError) -> MarketDataError:
    return MarketDataError(
        path,
        found=error.strerror or str(error),
        expected="a readable file",
        remedy="give a path that exists and may be read (replayer.data)",
    )
