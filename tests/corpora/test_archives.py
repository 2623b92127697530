"""Archives: verified, resumed, and unpacked without trusting what they hold."""

import io
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from audiolib.config.corpus import DownloadSection, MirroredArchive
from audiolib.corpora import archives
from audiolib.corpora.archives import Archive, extract, obtain
from audiolib.errors import AudiolibError
from audiolib.files import sha256_file

CONTENT = bytes(range(256)) * 4000
NO_MIRROR = DownloadSection(mirror=None, sha256=None, folder=None)


@pytest.fixture
def server(tmp_path):
    """A local server that serves CONTENT by range, and breaks off the first answers as often as it is told."""
    asked_ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        breaks = 0
        ranges = asked_ranges

        def do_GET(self):
            asked = self.headers.get("Range")
            Handler.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop = len(CONTENT)
            if Handler.breaks:
                Handler.breaks -= 1
                stop = start + 300_000
            self.wfile.write(CONTENT[start:stop])

        def log_message(self, *_):
            return

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    web.handler = Handler
    yield web
    web.shutdown()


def hash_of(content: bytes, folder: Path) -> str:
    path = folder / "hashed"
    path.write_bytes(content)
    return sha256_file(path)


def kept(store: Path) -> list[str]:
    """Files of a store, but for its locks."""
    return [path.name for path in store.iterdir() if path.suffix != ".lock"]


def test_a_broken_download_continues_where_it_stopped(server, tmp_path):
    server.handler.breaks = 2
    url = f"http://127.0.0.1:{server.server_port}/a.bin"
    found = obtain(Archive(url, "a.bin", hash_of(CONTENT, tmp_path)), NO_MIRROR, None, tmp_path / "store")
    assert found.read_bytes() == CONTENT
    assert server.handler.ranges == [None, "bytes=300000-", "bytes=600000-"]
    assert kept(tmp_path / "store") == ["a.bin"]


def test_a_download_with_the_wrong_hash_is_refused_and_removed(server, tmp_path):
    archive = Archive(f"http://127.0.0.1:{server.server_port}/a.bin", "a.bin", "0" * 64)
    with pytest.raises(AudiolibError, match=r"has sha256 [0-9a-f]{64}, expected 0{64}"):
        obtain(archive, NO_MIRROR, None, tmp_path / "store")
    assert kept(tmp_path / "store") == []


def test_offline_and_absent_names_file_address_hash_and_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.time, "sleep", lambda _: None)
    archive = Archive("http://127.0.0.1:9/corpus.tar.gz", "corpus.tar.gz", "ab" * 32)
    with pytest.raises(AudiolibError) as caught:
        obtain(archive, NO_MIRROR, None, tmp_path / "store")
    text = str(caught.value)
    for part in (
        "corpus.tar.gz",
        "http://127.0.0.1:9/corpus.tar.gz",
        "ab" * 32,
        str(tmp_path / "store"),
        "AUDIOLIB_MIRROR",
    ):
        assert part in text
    assert "\n" not in text


def test_a_mirror_needs_the_right_hash_and_the_environment_wins(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "a.bin").write_bytes(CONTENT)
    right = hash_of(CONTENT, tmp_path)
    section = DownloadSection(mirror=str(mirror), sha256=None, folder=None)
    url = "http://127.0.0.1:9/a.bin"
    assert obtain(Archive(url, "a.bin", right), section, None, tmp_path / "s") == mirror / "a.bin"
    wrong = Archive(url, "a.bin", "0" * 64)
    with pytest.raises(AudiolibError, match=r"give its hash as download\.sha256 if you trust it"):
        obtain(wrong, section, None, tmp_path / "s")
    trusting = DownloadSection(mirror=str(mirror), sha256=right, folder=None)
    assert obtain(wrong, trusting, None, tmp_path / "s") == mirror / "a.bin"
    monkeypatch.setenv("AUDIOLIB_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(AudiolibError, match="is not a folder"):
        obtain(wrong, trusting, None, tmp_path / "s")


def test_an_archive_of_another_name_is_accepted_by_the_hash_of_the_preset(tmp_path):
    (tmp_path / "part.bin").write_bytes(CONTENT)
    section = DownloadSection(mirror=str(tmp_path), sha256=None, folder=None)
    archive = Archive("http://127.0.0.1:9/a.bin", "a.bin", "0" * 64)
    known = MirroredArchive(file="part.bin", sha256=hash_of(CONTENT, tmp_path))
    assert obtain(archive, section, known, tmp_path / "s") == tmp_path / "part.bin"
    with pytest.raises(AudiolibError, match="has sha256"):
        obtain(archive, section, MirroredArchive(file="part.bin", sha256="1" * 64), tmp_path / "s")


def make_tar(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as bundle:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                bundle.addfile(info, io.BytesIO(member[1]))
            else:
                bundle.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member, reason",
    [
        (("../evil", b"x"), "outside its folder"),
        (("a/../../evil", b"x"), "outside its folder"),
        (("/tmp/evil", b"x"), "outside its folder"),
        (("..\\evil", b"x"), "outside its folder"),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), "link or a device"),
        (special("hard", tarfile.LNKTYPE, "good"), "link or a device"),
        (special("pipe", tarfile.FIFOTYPE), "link or a device"),
        (special("disk", tarfile.BLKTYPE), "link or a device"),
        (("good", b"again"), "twice"),
        (("./good", b"again"), "twice"),
    ],
)
def test_a_dangerous_tar_is_refused_before_anything_is_written(tmp_path, member, reason):
    path = make_tar(tmp_path / "a.tar.gz", [("good", b"fine"), member])
    with pytest.raises(AudiolibError, match=reason):
        extract(path, tmp_path / "out", "test")
    assert not list(tmp_path.glob("out/**/*")) and not (tmp_path / "evil").exists()


def test_a_dangerous_zip_is_refused_before_anything_is_written(tmp_path):
    for name, mode in (("../evil", 0o100644), ("/evil", 0o100644), ("link", 0o120777)):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as bundle:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            bundle.writestr("good", "fine")
            bundle.writestr(info, "target")
        with pytest.raises(AudiolibError, match="refused"):
            extract(path, tmp_path / "out", "test")
        assert not list(tmp_path.glob("out/**/*"))


def test_a_bomb_is_refused_by_its_ratio(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("zeros", bytes(50_000_000))
    with pytest.raises(AudiolibError, match="would unpack to more than"):
        extract(path, tmp_path / "out", "test")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = make_tar(tmp_path / "a.tar.gz", [(f"file{i}", b"x") for i in range(5)])
    with pytest.raises(AudiolibError, match="or 3 files"):
        extract(path, tmp_path / "out", "test")


@pytest.mark.parametrize("cut", [0, 10, 500, 5000])
def test_a_truncated_archive_is_named(tmp_path, cut):
    whole = make_tar(tmp_path / "a.tar.gz", [("noise", os.urandom(20_000))])
    broken = tmp_path / "cut.tar.gz"
    broken.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(AudiolibError, match=r"cut\.tar\.gz is damaged or not an archive"):
        extract(broken, tmp_path / "out", "test")


def test_honest_archives_are_unpacked(tmp_path):
    for path in (make_tar(tmp_path / "a.tar.gz", [("./d/one", b"1"), ("two", b"22")]), tmp_path / "a.zip"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as bundle:
                bundle.writestr("d/one", "1")
                bundle.writestr("two", "22")
        extract(path, tmp_path / path.stem, "test")
        assert (tmp_path / path.stem / "d/one").read_bytes() == b"1"
        assert (tmp_path / path.stem / "two").read_bytes() == b"22"
