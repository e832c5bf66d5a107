"""Files that are complete or absent, downloads that go on, and progress on a terminal."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

PathLike = str | os.PathLike

# Bytes that a compressed file may always unpack to, and so many times its own size beyond them.
_UNPACKED_BYTES = 1 << 30
_UNPACKED_RATIO = 20


class UnreadableFileError(ValueError):
    """A file that can't be read; the message names it."""


@contextlib.contextmanager
def naming_errors(path: PathLike, kind: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into an `UnreadableFileError` that names it.

    Args:
        path: the file that is read in the block.
        kind: what it should be: "a readable HDF5 file".
    """
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:
        # A mutated byte makes the libraries raise almost anything: OSError, KeyError, RuntimeError,
        # UnicodeDecodeError, MemoryError, zlib.error. It is always the file that is to blame.
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(f"{path} is not {kind}: {message[:300]}") from error


def check_unpacked_size(path: PathLike, unpacked: int) -> None:
    """Raises an `UnreadableFileError` for a file that would fill the memory when it is unpacked.

    Args:
        path: a file with compressed parts.
        unpacked: bytes that they say they hold.
    """
    stored = os.path.getsize(path)
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * stored):
        raise UnreadableFileError(
            f"{path} has {stored / 1e6:.1f} MB and would unpack to {unpacked / 1e9:.1f} GB: it is"
            " damaged, or made to fill the memory"
        )


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[str]:
    """A temporary path beside `path` that takes its place when the block ends without an error."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix="." + path.name, suffix=".part" + path.suffix
    )
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


# ---- Progress ------------------------------------------------------------------------------------


def draw_progress(line: str, complete: bool) -> None:
    """Draws a line on stderr, over itself on a terminal; elsewhere only the last one."""
    if sys.stderr.isatty():
        line = "\r" + line
    elif not complete:
        return
    end = ""
    if complete:
        end = "\n"
    print(line, end=end, file=sys.stderr, flush=True)


def show_progress(title: str, done: int, total: int, seconds: float) -> None:
    """Draws a bar with images a second on stderr; off a terminal only at the end."""
    bar = "=" * (30 * done // total)
    speed = done / max(seconds, 1e-9)
    draw_progress(f"{title} [{bar:30}] {done}/{total} images, {speed:.1f} images/s", done == total)


def progress_bar(done: int, total: int | None) -> None:
    """Draws the bytes so far of a download on stderr; `total` may be None."""
    line = f"{done / 1e6:.0f} MB"
    if total:
        bar = "=" * round(30 * done / total)
        line = f"[{bar:.<30}] {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    draw_progress(line, done == total)


# ---- Downloads -----------------------------------------------------------------------------------


def download(
    url: str,
    path: PathLike,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Downloads a file; a broken download goes on where it stopped, `path` is complete or absent.

    Args:
        url, path: from and to.
        sha256: hex digest that the file must have, or None.
        progress: f(bytes so far, bytes in all or None), called for every megabyte.

    Raises:
        ValueError: fewer bytes than announced, or another digest; the message says which.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    size, total = _fetch(url, part, progress)
    if total is not None and size != total:
        raise ValueError(f"{url} broke off after {size} of {total} bytes; run again to go on")
    if sha256:
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            part.unlink()
            raise ValueError(
                f"{url} has the SHA-256 {digest}, expected {sha256}; the download was removed"
            )
    shutil.move(part, path)


def _fetch(url, part, progress):
    """Adds what is missing to a partial file. Returns (its size, the announced size or None)."""
    response, start = _request(url, part)
    mode = "wb"
    if start:
        mode = "ab"
    with response, open(part, mode) as out:
        total = None
        if length := response.headers.get("Content-Length"):
            total = start + int(length)
        while True:
            try:
                block = response.read(1 << 20)
            except OSError as error:
                raise ValueError(
                    f"{url} broke off after {out.tell()} bytes; run again to go on"
                ) from error
            if not block:
                return out.tell(), total
            out.write(block)
            if progress:
                progress(out.tell(), total)


def _request(url, part):
    """The server's answer, and the number of bytes after which it goes on."""
    have = 0
    if part.exists():
        have = part.stat().st_size
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file: what lies there is not a part of it
        response = urllib.request.urlopen(url)
    if response.status != 206:
        have = 0
    return response, have
