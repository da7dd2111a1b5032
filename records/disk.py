"""Storage on a local file system. A file is published whole by linking it to its name; see `records/storage.py`."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

from records.stored import StorageError, StoredObject, is_hidden

# Where files without a name are not supported: other systems than Linux, and some file systems.
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


def list_objects(path: Path) -> list[StoredObject]:
    """The file `path`, or every file below it that is not hidden; symbolic links are followed."""
    if exists(path):
        return [_entry(path)]
    if not path.is_dir():
        raise StorageError(f"{path}: no such file or folder.")
    return [_entry(file) for file in _files_below(path) if not is_hidden(file.relative_to(path).as_posix())]


@contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """The bytes of `path`."""
    try:
        stream = path.open("rb")
    except OSError as error:
        _refuse(path, error)
    with stream:
        yield stream


def exists(path: Path) -> bool:
    """Whether `path` is a file."""
    try:
        return path.is_file()
    except OSError as error:
        _refuse(path, error)


def put_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` as `path` unless the name is taken; returns whether this call did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            published = _link_unnamed(path, folder, data)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        _refuse(path, error)
    return published


def _link_unnamed(path: Path, folder: int, data: bytes) -> bool:
    # A file without a name vanishes with a process that is killed while it writes: nothing is left to clean up.
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_UNNAMED_FILES:
            raise
        return _link_named(path, data)
    with os.fdopen(descriptor, "wb") as stream:
        _write(stream, data)
        # With a folder's descriptor given, os.link follows the link in /proc instead of linking it.
        return _link(f"/proc/self/fd/{stream.fileno()}", path.name, folder)


def _link_named(path: Path, data: bytes) -> bool:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            _write(stream, data)
        return _link(str(temporary), str(path), None)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()
    os.fsync(stream.fileno())


def _link(source: str, target: str, folder: int | None) -> bool:
    try:
        os.link(source, target, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    return True


def _files_below(path: Path) -> Iterator[Path]:
    seen = set()
    for folder, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        yield from (Path(folder, name) for name in files if Path(folder, name).is_file())


def _raise(error: OSError) -> NoReturn:
    # Without this, os.walk passes over a folder that may not be read.
    _refuse(Path(str(error.filename)), error)


def _entry(path: Path) -> StoredObject:
    try:
        str(path).encode()
        stat = path.stat()
    except UnicodeEncodeError:
        raise StorageError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename the file.") from None
    except OSError as error:
        _refuse(path, error)
    return StoredObject(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


# What the system says -> what to do about it, where its own words do not tell.
_FIXES = {
    errno.EPERM: "not permitted; a file is written once by a hard link, which this file system may not have",
    errno.EEXIST: "a file stands where a folder is needed",
}


def _refuse(path: Path, error: OSError) -> NoReturn:
    if isinstance(error, StorageError):
        raise error
    raise StorageError(f"{path}: {_FIXES.get(error.errno or 0, error.strerror or error)}.") from None
