"""Getting a publisher's files: resumed where it broke off, checked, and in place only when complete.

What has arrived of a file lies beside its place as ``<name>.part``, with a note of where it came from and how
the server tells its version (``<name>.part.json``). The server is asked for the rest only if it is sure to be
the rest of the same version: two halves of two files make no file.
"""

import contextlib
import http.client
import os
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from prismrec.base.errors import InputError, PrismError
from prismrec.base.files import read_json, storage_errors, sync_folder, write_json
from prismrec.base.progress import SILENT, Progress
from prismrec.data.fetch import HEADERS, REDIRECTS, FetchError, FetchTimeoutError, open_connection
from prismrec.data.sources.answers import Answer, Beginning, BrokenError, StaleError, read_answer
from prismrec.data.sources.checksums import CheckedFile, check_file, how_to_get, remember
from prismrec.data.sources.source import RemoteFile

MAX_REDIRECTS = 5
MAX_PAUSE_S = 60.0

_BLOCK = 1 << 18
_MIB = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Parameters
    ----------
    attempts
        Attempts in a row that bring nothing new before it is given up.
    pause_s
        Seconds before the second attempt; doubled before each further one, up to a minute.
    connect_s, stall_s
        Seconds to reach a server, and without a byte from it, until an attempt has failed.
    """

    attempts: int = 5
    pause_s: float = 1.0
    connect_s: float = 30.0
    stall_s: float = 60.0


PATIENT = Patience()


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    progress: Progress = SILENT,
    patience: Patience = PATIENT,
    allow_private: bool = False,
) -> tuple[CheckedFile, ...]:
    """Download files that are not there yet, and check all of them.

    Where the publisher gives no checksum, that of the first download is written into ``checksums.json``
    beside the files and compared ever after.

    Parameters
    ----------
    files
        What to get.
    folder
        Where to; made if need be.
    progress
        Where to report to.
    patience
        How long to try.
    allow_private
        Also from addresses that are not public: for servers of your own only.

    Returns
    -------
    tuple of CheckedFile
        In the order of `files`.

    Raises
    ------
    InputError
        If a file cannot be had, or is not what it should be; the message says how to get it by hand. What has
        arrived is kept, unless it is known to be wrong.
    StorageError
        If the disk refuses.
    """
    folder = Path(folder)
    return tuple(_have(file, folder, progress, patience, allow_private) for file in files)


def _have(
    file: RemoteFile, folder: Path, progress: Progress, patience: Patience, allow_private: bool
) -> CheckedFile:
    if (folder / file.name).is_file():
        checked = check_file(file, folder)
    else:
        if not file.url:
            raise InputError(
                f"{folder / file.name}: this file has no address to download it from.",
                f"Get it by hand: {how_to_get(file, folder)}",
            )
        part = _Part.of(file, folder)
        try:
            with _locked(part.path):
                _arrive(file, folder, part, progress, patience, allow_private)
                checked = _take_in(file, folder, part)
        finally:
            if part.size() == 0:
                part.remove()
    if checked.trust == "nothing":
        remember(file, folder, checked)
        progress.say(
            f"{file.name}: {checked.size:,} bytes, sha256 {checked.sha256}. The publisher gives no checksum: "
            "trusted on first use, compared from now on."
        )
    return checked


@dataclass(frozen=True)
class _Part:
    """What has arrived of a file."""

    path: Path
    note: Path

    @staticmethod
    def of(file: RemoteFile, folder: Path) -> "_Part":
        path = folder / f"{file.name}.part"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return _Part(path, path.with_name(f"{path.name}.json"))

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def remove(self) -> None:
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def beginning(self, file: RemoteFile) -> Beginning:
        """Return what there is to go on from; nothing if the rest could be that of another version."""
        with contextlib.suppress(PrismError):
            note = read_json(self.note, "a download")
            version = note.get("version")
            sure = isinstance(version, str) or file.sha256 is not None or file.md5 is not None
            if note.get("url") == file.url and sure:
                return Beginning(self.size(), version if isinstance(version, str) else None)
        return Beginning(0, None)


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Make the part if need be; keep two processes from writing it at once, where the system has locks."""
    with storage_errors(part):
        part.touch()
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        yield
        return
    with storage_errors(part), part.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{part}: another process is downloading this file.", "Wait until it is done."
            ) from None
        yield


def _arrive(
    file: RemoteFile, folder: Path, part: _Part, progress: Progress, patience: Patience, allow_private: bool
) -> None:
    """Try until all of a file has arrived."""
    tries, most = 0, part.beginning(file).size
    while True:
        try:
            _attempt(file, part, progress, patience, allow_private)
            return
        except BrokenError as error:
            # A server that breaks off at the same place each time must not keep us for ever.
            tries = 0 if part.size() > most else tries + 1
            most = max(most, part.size())
            if tries >= patience.attempts:
                raise InputError(
                    f"{file.url}: the download broke off ({error}), {patience.attempts} times in a row.",
                    f"{most:,} bytes are kept: the same command goes on from there. Or get it by hand: "
                    f"{how_to_get(file, folder)}",
                ) from error
            pause = min(patience.pause_s * 2 ** max(tries - 1, 0), MAX_PAUSE_S)
            progress.say(f"{file.name}: broke off at {part.size():,} bytes ({error}); again in {pause:g} s")
            time.sleep(pause)
        except FetchError as error:
            raise InputError(
                f"{file.url}: cannot be downloaded, {error.problem}.",
                f"Get it by hand: {how_to_get(file, folder)}",
            ) from error


def _attempt(
    file: RemoteFile, part: _Part, progress: Progress, patience: Patience, allow_private: bool
) -> None:
    """Ask for what is missing and append it; `BrokenError` where it is worth another attempt."""
    begun = part.beginning(file)
    url = file.url
    for _ in range(MAX_REDIRECTS + 1):
        deadline = time.monotonic() + patience.connect_s
        try:
            connection, target = open_connection(url, deadline, allow_private=allow_private)
            with closing(connection):
                connection.request("GET", target, headers={**HEADERS, **begun.headers()})
                response = connection.getresponse()
                connection.wait_at_most(patience.stall_s)
                if response.status not in REDIRECTS:
                    _receive(response, read_answer(response, begun, file), file, part, progress)
                    return
                url = _redirected(url, response.getheader("Location"))
        except FetchTimeoutError as error:
            raise BrokenError(error.problem) from error
        except PrismError:
            raise
        except StaleError:
            # Without the note, the next attempt begins anew.
            part.note.unlink(missing_ok=True)
            raise
        except ssl.SSLCertVerificationError as error:
            raise FetchError(f"the server's certificate is not valid ({error.verify_message})") from error
        except (OSError, http.client.HTTPException) as error:
            raise BrokenError(str(error) or type(error).__name__) from error
    raise FetchError(f"more than {MAX_REDIRECTS} redirects")


def _redirected(url: str, location: str | None) -> str:
    if not location:
        raise FetchError("the server redirects without saying where to")
    to = urljoin(url, location)
    if urlsplit(url).scheme.lower() == "https" and urlsplit(to).scheme.lower() != "https":
        raise FetchError(f"the server redirects from https to {to}, which anybody on the way could alter")
    return to


def _receive(
    response: http.client.HTTPResponse,
    answer: Answer | None,
    file: RemoteFile,
    part: _Part,
    progress: Progress,
) -> None:
    """Write what the server sends to the part, after what is there or in its place."""
    if answer is None:
        return
    if answer.start == 0:
        # Without the note, what lies in the part is no beginning of anything.
        part.note.unlink(missing_ok=True)
    total = None if answer.total is None else answer.total // _MIB
    with progress.task(f"{file.name}, MiB", total) as task, part.path.open("r+b") as handle:
        with storage_errors(part.path):
            handle.truncate(answer.start)
            handle.seek(answer.start)
            if answer.start == 0:
                write_json(part.note, {"url": file.url, "version": answer.version, "total": answer.total})
        have = shown = answer.start
        task.advance(shown // _MIB)
        while block := response.read1(_BLOCK):
            with storage_errors(part.path):
                handle.write(block)
            have += len(block)
            answer.check_not_more(have)
            task.advance(have // _MIB - shown // _MIB)
            shown = have
        with storage_errors(part.path):
            handle.flush()
            os.fsync(handle.fileno())
    answer.check_complete(have)


def _take_in(file: RemoteFile, folder: Path, part: _Part) -> CheckedFile:
    """Check what has arrived, and move it to its place."""
    place = folder / file.name
    try:
        checked = check_file(file, folder, part.path)
    except InputError as error:
        part.remove()
        raise InputError(
            f"{file.url}: what arrived is not the file that was expected and was removed. {error.problem}",
            "Its publisher may have changed it, or something on the way did. Try again, or put it there "
            f"yourself: {how_to_get(file, folder)}",
        ) from error
    with storage_errors(place):
        part.path.replace(place)
        sync_folder(place.parent)
        part.note.unlink(missing_ok=True)
    return CheckedFile(checked.name, place, checked.size, checked.sha256, checked.trust)
