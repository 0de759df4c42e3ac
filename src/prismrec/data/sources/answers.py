"""What a server answers to "the rest of this file, please": all of it, the rest, nothing more, or no."""

import http.client
import re
from dataclasses import dataclass

from prismrec.data.fetch import FetchError
from prismrec.data.sources.source import RemoteFile

# Worth another attempt: time-out, too many requests, and the server's own troubles.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_GZIP = ("gzip", "x-gzip")
_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")
_ONLY_TOTAL = re.compile(r"^bytes \*/(\d+)$")


class BrokenError(Exception):
    """An attempt failed in a way that the next one need not."""


class StaleError(BrokenError):
    """What has arrived before is no beginning of what the server has now."""


@dataclass(frozen=True)
class Beginning:
    """What has arrived before.

    Parameters
    ----------
    size
        Bytes.
    version
        How the server told the version of the file (``ETag`` or ``Last-Modified``), None if it did not.
    """

    size: int
    version: str | None

    def headers(self) -> dict[str, str]:
        """Return what to ask for: the rest, if it is of the same version."""
        if self.size == 0:
            return {}
        asked = {"Range": f"bytes={self.size}-"}
        return asked if self.version is None else {**asked, "If-Range": self.version}


@dataclass(frozen=True)
class Answer:
    """What is about to be sent.

    Parameters
    ----------
    start
        Place of its first byte in the file.
    total
        Bytes of the whole file, None if the server does not say.
    version
        As for `Beginning`.
    """

    start: int
    total: int | None
    version: str | None

    def check_not_more(self, have: int) -> None:
        """Raise as soon as more arrives than there should be."""
        if self.total is not None and have > self.total:
            raise FetchError(f"the server sends more than the {self.total:,} bytes that there should be")

    def check_complete(self, have: int) -> None:
        """Raise if less has arrived than there should be."""
        if self.total is not None and have < self.total:
            raise BrokenError(f"{have:,} of {self.total:,} bytes")


def read_answer(response: http.client.HTTPResponse, begun: Beginning, file: RemoteFile) -> Answer | None:
    """Read the head of an answer.

    Parameters
    ----------
    response
        Its body is not touched.
    begun
        What was asked to be continued.
    file
        What is wanted.

    Returns
    -------
    Answer or None
        None if all of the file is there already.

    Raises
    ------
    FetchError
        If the server says no, offers a file of another size, or one of unknown size that nothing can check.
    BrokenError
        If another attempt may succeed.
    """
    if response.status in _PASSING:
        raise BrokenError(f"status {response.status} {response.reason}".strip())
    if response.status == 416:
        whole = _ONLY_TOTAL.match(response.getheader("Content-Range", ""))
        if whole is not None and int(whole[1]) == begun.size > 0:
            return None
        raise StaleError("the server has less of the file than has arrived before")
    if response.status not in (200, 206):
        raise FetchError(f"the server answers {response.status} {response.reason}".strip())
    # A web server may call a .gz file "encoded": then its bytes are those of the file all the same.
    encoding = response.getheader("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "") and not (encoding in _GZIP and file.name.endswith(".gz")):
        raise FetchError(f"the server sent it compressed ({encoding}), which was not asked for")
    start, total = _extent(response, begun)
    if total is not None and file.size is not None and total != file.size:
        raise FetchError(f"the server offers {total:,} bytes, and the file should have {file.size:,}")
    total = file.size if total is None else total
    if total is None and not response.chunked and file.sha256 is None and file.md5 is None:
        raise FetchError(
            "the server does not say how large the file is: nothing would show that it broke off"
        )
    return Answer(start, total, _version(response))


def _extent(response: http.client.HTTPResponse, begun: Beginning) -> tuple[int, int | None]:
    """Where the body begins, and how large the file is."""
    if response.status == 200:
        # The server knows no ranges, or has another version by now: all of it comes, from the start.
        return 0, response.length
    found = _RANGE.match(response.getheader("Content-Range", ""))
    if found is None or int(found[1]) != begun.size:
        raise StaleError(f"the server sends another part of the file than asked for, bytes {begun.size:,} on")
    total = int(found[2]) + 1 if found[3] == "*" else int(found[3])
    return begun.size, total


def _version(response: http.client.HTTPResponse) -> str | None:
    tag = response.getheader("ETag")
    # A weak tag says "much the same", which is not enough to put two halves together.
    if tag and not tag.startswith("W/"):
        return tag
    return response.getheader("Last-Modified")
