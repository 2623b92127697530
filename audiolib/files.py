"""Atomic files, hashes and the few folders that live outside stage outputs."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from audiolib.errors import AudiolibError

# What a new file may be, by the user's own setting, which can be asked for only by changing it.
_MASK = os.umask(0o022)
os.umask(_MASK)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one clear line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # A library may wrap the system's error and keep only its text.
        number = getattr(error, "errno", None) or next((n for n, text in _REFUSALS.items() if text in str(error)), None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise AudiolibError(
                f"no space left on the disk while writing {path}; free some space and run again, "
                "what was finished is kept"
            ) from error
        if number in _REFUSALS:
            raise AudiolibError(f"cannot write {path}: {_REFUSALS[number]}; change that or name another") from error
        raise


# Mistakes of a user, by what the system calls them.
_REFUSALS = {
    number: os.strerror(number)
    for number in (
        *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    )
}


@contextmanager
def atomic_path(path: Path, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it becomes `path` in one step, else it is removed.

    A reader sees the old file or the whole new one; after a power cut, too, where file and folder are `synced`. That
    takes milliseconds: what is made anew at little cost, and is known when it is torn, can do without.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            temporary.chmod(0o666 & ~_MASK)  # Some libraries write files that nobody else can read.
            if synced:
                _sync(temporary)
            temporary.replace(path)
            if synced:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AudiolibError(f"{path} is missing; run `dvc repro` to make it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AudiolibError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from error


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON that carries its own digest: a changed digit in it is found when it is read."""
    write_json(path, {**value, "digest": digest(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote; a file without a digest is taken as it is.

    Raises:
        AudiolibError: missing, no JSON, or not what was written.
    """
    value: dict[str, Any] = read_json(path)
    if not isinstance(value, dict) or value.pop("digest", None) not in (None, digest(value)):
        raise AudiolibError(f"{path} is damaged: it is not what was written; delete it and run `dvc repro`")
    return value


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A short stable digest of a JSON-able value: names fingerprints and folders."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(package: Path, patterns: Iterable[str]) -> str:
    """A digest of the files of a package that match: a run of other code gets another fingerprint."""
    files = sorted({path for pattern in patterns for path in package.glob(pattern)})
    return digest({str(path.relative_to(package)): sha256_file(path) for path in files})


def project_folder() -> Path:
    """The project that this folder is in, else the one that this package lies in.

    Raises:
        AudiolibError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    raise AudiolibError(f"{here} is in no project, which has a params.yaml and a dvc.yaml; go into one")


def state_folder(root: Path) -> Path:
    """Where resumable state and the MLflow store live: the original repository, also inside a temporary DVC run.

    DVC sets DVC_ROOT to the repository that started an experiment, while the experiment's own files
    sit in a throw-away copy. State kept in the copy would be lost with it.
    """
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def user_path(text: str) -> Path:
    """A path that the user wrote; a relative one counts from the repository, also inside a temporary DVC run."""
    return (Path(os.environ.get("DVC_ROOT") or Path(__file__).parent.parent) / Path(text).expanduser()).resolve()


def scratch_folder(root: Path) -> Path:
    """The git-ignored folder of resumable state: checkpoints, unfinished shards, archives."""
    return state_folder(root) / ".scratch"


@contextmanager
def lock(path: Path, busy: Callable[[], None] | None = None) -> Iterator[None]:
    """One process at a time: experiments that run side by side share the folder of resumable state.

    Args:
        path: the lock; it is free when the process that has it ends, however that is.
        busy: called once if another process has it.
    """
    from filelock import FileLock, Timeout

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        try:
            held.acquire(timeout=0 if busy else -1)
        except Timeout:
            busy()
            held.acquire()
    try:
        yield
    finally:
        held.release()


def fresh_folder(path: Path) -> Path:
    """An empty folder: what an earlier run left in it would otherwise be taken for this run's."""
    with disk_errors(path):
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    return path


def new_folder(path: Path) -> None:
    """Make sure that a folder can be written without touching what is there.

    Raises:
        AudiolibError: it has something in it, or is a file.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise AudiolibError(f"{path} is not empty; name a new folder")


# What libsndfile reads.
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")


def files_below(root: Path) -> Iterator[Path]:
    """Every file below a folder in order, links followed, but for hidden ones and what archivers leave behind."""
    above = {Path(root): {Path(root).resolve()}}
    for folder, inside, names in os.walk(root, followlinks=True):
        ways = above.pop(Path(folder))
        shown = sorted(name for name in inside if not name.startswith(".") and name != "__MACOSX")
        real = {name: (Path(folder) / name).resolve() for name in shown}
        # A link to a folder that led here, or to one above such a folder, has no end.
        inside[:] = [name for name in shown if not any(way.is_relative_to(real[name]) for way in ways)]
        above |= {Path(folder) / name: ways | {real[name]} for name in inside}
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def is_sound(path: Path) -> bool:
    """Whether a file's suffix is that of a sound file which can be read."""
    return path.suffix.lower() in SOUND_SUFFIXES
