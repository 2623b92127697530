"""Archives: from a mirror folder or the upstream address, verified, and unpacked without trusting their contents."""

import http.client
import os
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from audiolib.config.corpus import DownloadSection, MirroredArchive
from audiolib.errors import AudiolibError
from audiolib.files import disk_errors, lock, sha256_file, user_path
from audiolib.progress import say, track

# No corpus of this project comes near these; an archive that does is a mistake or an attack.
MAX_MEMBERS = 500_000
MAX_BYTES = 64 * 2**30
MAX_RATIO = 200
_CHUNK = 1 << 20
# What zipfile and tarfile raise at headers that make no sense: an unknown compression, a password, a number of letters.
_UNPACKABLE = (NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Archive:
    """An upstream file. `sha256` is null where upstream generates it on demand, so that its bytes may change."""

    url: str
    file: str
    sha256: str | None


def obtain(archive: Archive, section: DownloadSection, mirrored: MirroredArchive | None, store: Path) -> Path:
    """A verified local copy: from the mirror if it has one, else from `store`, else downloaded into `store`.

    Raises:
        AudiolibError: a file's hash is not the expected one, or there is neither a copy nor a connection.
    """
    mirror = os.environ.get("AUDIOLIB_MIRROR") or section.mirror
    accepted = {archive.sha256, section.sha256} - {None}
    if mirror:
        folder = user_path(mirror)
        if not folder.is_dir():
            raise AudiolibError(f"the mirror {folder} is not a folder; check AUDIOLIB_MIRROR or download.mirror")
        if (folder / archive.file).is_file():
            if mirrored and mirrored.file == archive.file:
                accepted.add(mirrored.sha256)
            return _verified(folder / archive.file, accepted)
        if mirrored and (folder / mirrored.file).is_file():
            return _verified(folder / mirrored.file, {mirrored.sha256, section.sha256} - {None})
    path = store / archive.file
    with lock(path.with_name(path.name + ".lock")):
        if not path.exists():
            _download(archive, path, accepted)
    return _verified(path, accepted)


def _verified(path: Path, accepted: set[str | None]) -> Path:
    """Refuse a file whose hash is not among `accepted`; with none known, any intact archive is accepted."""
    found = sha256_file(path)
    if accepted and found not in accepted:
        raise AudiolibError(
            f"{path} has sha256 {found}, expected {' or '.join(sorted(map(str, accepted)))}; replace the file, or give "
            "its hash as download.sha256 if you trust it"
        )
    return path


def _download(archive: Archive, path: Path, accepted: set[str | None], tries: int = 4) -> None:
    """Fetch by range into a `.part` file, so that a broken connection continues where it stopped."""
    part = path.with_name(path.name + ".part")
    wanted = " or ".join(sorted(map(str, accepted))) or "not pinned, upstream generates the file"
    with disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    reason: object = ""
    for attempt in range(tries):
        try:
            _fetch(archive.url, part)
            break
        except urllib.error.HTTPError as error:
            reason = error
            if error.code == 416:  # The part is longer than the file: it belongs to another version.
                part.unlink(missing_ok=True)
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, ssl.SSLError) as error:
            reason = getattr(error, "reason", error)
        if attempt < tries - 1:
            time.sleep(2**attempt / 4)
    else:
        raise AudiolibError(
            f"cannot download {archive.file} from {archive.url} ({reason}); get it by other means (sha256: {wanted}) "
            f"and put it into {path.parent} or into a folder named by AUDIOLIB_MIRROR"
        )
    try:
        _verified(part, accepted)
    except AudiolibError:
        part.unlink()  # A finished part with a wrong hash would be "resumed" for ever.
        raise
    part.replace(path)


def _fetch(url: str, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if answer.status != 206:
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        say(f"downloading {url}" + (f", continuing at {done / 1e6:.1f} MB" if done else ""))
        with disk_errors(part), part.open("ab" if done else "wb") as target:
            blocks = iter(lambda: answer.read(_CHUNK), b"")
            for block in track(blocks, "download", total=(total - done) // _CHUNK + 1, unit="MB"):
                target.write(block)
        if total and part.stat().st_size < total:
            raise ConnectionError("the connection ended early")


def extract(archive: Path, target: Path, what: str) -> None:
    """Unpack a tar or zip file into `target`, every member checked before the first byte is written.

    Raises:
        AudiolibError: damaged archive; a member that is absolute, climbs out, is a link or a device, or occurs
            twice; more members, bytes or compression than any honest corpus has.
    """
    try:
        with disk_errors(target):
            members = list(_members(archive))
            _refuse_unsafe(archive, members)
            for name, size, handle in track(_opened(archive), f"unpacking {what}", total=len(members), unit="file"):
                _write(target / name, handle, size)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, *_UNPACKABLE) as error:
        raise AudiolibError(
            f"{archive} is damaged or not an archive ({error}); delete it and fetch it again"
        ) from error


def _members(archive: Path) -> Iterator[tuple[str, int, bool]]:
    """Name, unpacked size and whether it is a plain file or folder, of every member."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                yield info.filename, info.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR)
    else:
        with tarfile.open(archive) as bundle:
            for info in bundle:
                yield info.name, info.size, info.isreg() or info.isdir()


def _refuse_unsafe(archive: Path, members: list[tuple[str, int, bool]]) -> None:
    total, seen = 0, set()
    limit = min(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
    for name, size, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[:1]:
            raise AudiolibError(f"{archive} holds {name!r}, which would be written outside its folder; refused")
        if not plain:
            raise AudiolibError(f"{archive} holds {name!r}, which is a link or a device; refused")
        if path.as_posix() in seen:
            raise AudiolibError(f"{archive} holds {name!r} twice; refused")
        seen.add(path.as_posix())
        total += size
        if total > limit or len(seen) > MAX_MEMBERS:
            raise AudiolibError(
                f"{archive} would unpack to more than {limit / 1e6:.0f} MB or {MAX_MEMBERS} files; refused"
            )


def _opened(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Name, size and contents of every member; a folder has no contents."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                yield info.filename, info.file_size, None if info.is_dir() else bundle.open(info)
    else:
        with tarfile.open(archive) as bundle:
            for member in bundle:
                yield member.name, member.size, bundle.extractfile(member)


def _write(path: Path, handle: Any, size: int) -> None:
    if handle is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        while block := handle.read(_CHUNK):
            size -= len(block)
            if size < 0:
                raise zipfile.BadZipFile(f"{path.name} is longer than the archive says")
            target.write(block)
    if size:
        raise EOFError(f"{path.name} is cut short")
