import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prismrec.base.errors import InputError
from prismrec.data.sources import download as module
from prismrec.data.sources.checksums import RECORD, check_files
from prismrec.data.sources.download import Patience, download
from prismrec.data.sources.source import RemoteFile

# Larger than what fits into a socket's buffers, so that a broken connection breaks in the middle.
BODY = hashlib.sha256(b"seed").digest() * 40_000
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
QUICK = Patience(attempts=3, pause_s=0.0, connect_s=5.0, stall_s=5.0)


class Server(ThreadingHTTPServer):
    """Serves one body; the fields say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.tag: str | None = '"v1"'
        self.ranges = True
        self.length = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.encoding: str | None = None
        self.location: str | None = None
        self.asked: list[dict[str, str]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        if server.location is not None and self.path == "/away":
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        start, whole = 0, len(server.body)
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, server.tag)
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= whole:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(200)
        if server.length:
            self.send_header("Content-Length", str(whole - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else whole
        self.wfile.write(server.body[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def remote(server: Server, **fields: Any) -> RemoteFile:
    return RemoteFile("data.bin", f"{server.base}/data.bin", **fields)


def get(file: RemoteFile, folder: Path, **options: Any) -> Any:
    (found,) = download([file], folder, patience=QUICK, allow_private=True, **options)
    return found


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_with_the_publishers_checksums(server: Server, tmp_path: Path) -> None:
    found = get(remote(server, sha256=SHA256.upper(), md5=MD5, size=len(BODY)), tmp_path / "raw")
    assert (tmp_path / "raw" / "data.bin").read_bytes() == BODY
    assert (found.size, found.sha256, found.trust) == (len(BODY), SHA256, "publisher")
    assert left(tmp_path / "raw") == {"data.bin"}


def test_what_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    get(remote(server, md5=MD5), tmp_path)
    get(remote(server, md5=MD5), tmp_path)
    assert len(server.asked) == 1


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [500_000, 300_000]
    get(remote(server, sha256=SHA256), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=500000-", "bytes=800000-"]
    assert server.asked[1]["If-Range"] == '"v1"'


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 300_000), max_size=4), ranges=st.booleans(), tag=st.booleans())
def test_wherever_it_breaks_the_file_is_whole_in_the_end(
    server: Server, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool, tag: bool
) -> None:
    server.cuts, server.ranges, server.tag = list(cuts), ranges, '"v1"' if tag else None
    folder = tmp_path_factory.mktemp("raw")
    download([remote(server)], folder, patience=Patience(attempts=6, pause_s=0.0), allow_private=True)
    assert (folder / "data.bin").read_bytes() == BODY


def test_a_later_call_resumes_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(InputError, match="3 times in a row") as caught:
        get(remote(server), tmp_path)
    assert "100,000 bytes are kept" in str(caught.value)
    assert str(tmp_path / "data.bin") in str(caught.value)
    assert not (tmp_path / "data.bin").exists()
    server.cuts = []
    get(remote(server), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert server.asked[-1]["Range"] == "bytes=100000-"
    assert left(tmp_path) == {"data.bin", RECORD}


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [700_000]
    get(remote(server), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [700_000] * 50
    with pytest.raises(InputError, match="broke off"):
        get(remote(server), tmp_path)
    assert len(server.asked) == 4


def test_halves_of_two_versions_are_never_put_together(server: Server, tmp_path: Path) -> None:
    server.cuts = [400_000, 0, 0, 0]
    with pytest.raises(InputError):
        get(remote(server), tmp_path)
    server.cuts, server.tag, server.body = [], '"v2"', BODY[::-1]
    get(remote(server), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY[::-1]


def test_without_a_version_and_a_checksum_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    server.tag = None
    server.cuts = [400_000]
    get(remote(server), tmp_path)
    assert "Range" not in server.asked[1]
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_checksum_makes_up_for_a_missing_version(server: Server, tmp_path: Path) -> None:
    server.tag = None
    server.cuts = [400_000]
    get(remote(server, md5=MD5), tmp_path)
    assert server.asked[1]["Range"] == "bytes=400000-"


def test_a_kill_between_arrival_and_rename(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY)
    (tmp_path / "data.bin.part.json").write_text(
        json.dumps({"url": remote(server).url, "version": '"v1"', "total": len(BODY)})
    )
    get(remote(server), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_more_has_arrived_than_the_server_has(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY + b"more")
    (tmp_path / "data.bin.part.json").write_text(
        json.dumps({"url": remote(server).url, "version": '"v1"', "total": len(BODY) + 4})
    )
    get(remote(server), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_names_both_and_leaves_nothing(server: Server, tmp_path: Path, kind: str) -> None:
    wrong = "0" * len({"sha256": SHA256, "md5": MD5}[kind])
    with pytest.raises(InputError) as caught:
        get(remote(server, **{kind: wrong}), tmp_path)
    assert wrong in str(caught.value)
    assert {"sha256": SHA256, "md5": MD5}[kind] in str(caught.value)
    assert "yourself" in str(caught.value)
    assert left(tmp_path) == set()


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
def test_another_size_is_seen_before_anything_is_downloaded(
    server: Server, tmp_path: Path, size: int
) -> None:
    with pytest.raises(InputError, match=f"offers {len(BODY):,} bytes, and the file should have {size:,}"):
        get(remote(server, size=size), tmp_path)
    assert left(tmp_path) == set()


def test_sizes_without_a_length_in_the_answer(server: Server, tmp_path: Path) -> None:
    server.length = False
    with pytest.raises(InputError, match="sends more than"):
        get(remote(server, size=len(BODY) - 1), tmp_path)
    with pytest.raises(InputError, match=f"expected {len(BODY) + 1:,}"):
        get(remote(server, size=len(BODY) + 1), tmp_path / "short")
    with pytest.raises(InputError, match="does not say how large"):
        get(remote(server), tmp_path / "unknown")
    get(remote(server, size=len(BODY)), tmp_path / "right")


def test_not_found_is_said_at_once_with_the_way_by_hand(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(InputError, match="404") as caught:
        get(remote(server), tmp_path)
    assert f"{server.base}/data.bin -> {tmp_path / 'data.bin'}" in str(caught.value)
    assert len(server.asked) == 1
    assert left(tmp_path) == set()


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    get(remote(server), tmp_path)
    assert len(server.asked) == 3


def test_redirects_are_followed_but_not_away_from_https(server: Server, tmp_path: Path) -> None:
    server.location = "/data.bin"
    get(RemoteFile("data.bin", f"{server.base}/away"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    with pytest.raises(module.FetchError, match="https"):
        module._redirected("https://a.example/x", "http://a.example/x")
    server.location = "/away"
    with pytest.raises(InputError, match="more than 5 redirects"):
        get(RemoteFile("other.bin", f"{server.base}/away"), tmp_path)


def test_private_addresses_and_other_schemes_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not public"):
        download([remote(server)], tmp_path, patience=QUICK)
    assert server.asked == []
    with pytest.raises(InputError, match="only http and https"):
        download([RemoteFile("passwd", "file:///etc/passwd")], tmp_path, patience=QUICK)


def test_a_gz_file_that_the_server_calls_encoded(server: Server, tmp_path: Path) -> None:
    server.encoding = "x-gzip"
    get(RemoteFile("data.gz", f"{server.base}/data.gz"), tmp_path)
    assert (tmp_path / "data.gz").read_bytes() == BODY
    with pytest.raises(InputError, match="compressed"):
        get(remote(server), tmp_path)


def test_trust_on_first_use(server: Server, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening:
        def say(self, text: str) -> None:
            said.append(text)

        task = module.SILENT.task

    assert get(remote(server), tmp_path, progress=Listening()).trust == "nothing"
    assert "trusted on first use" in said[-1]
    assert get(remote(server), tmp_path).trust == "first use"
    assert json.loads((tmp_path / RECORD).read_text())["files"]["data.bin"]["sha256"] == SHA256

    (tmp_path / "data.bin").write_bytes(b"other")
    with pytest.raises(InputError, match="trusted on first use") as caught:
        get(remote(server), tmp_path)
    assert SHA256 in str(caught.value)

    (tmp_path / "data.bin").unlink()
    server.body, server.tag = BODY[::-1], '"v2"'
    with pytest.raises(InputError, match="was removed"):
        get(remote(server), tmp_path)
    assert left(tmp_path) == {RECORD}


def test_a_file_of_that_name_from_another_address_is_another_file(server: Server, tmp_path: Path) -> None:
    get(remote(server), tmp_path)
    with pytest.raises(InputError, match="folder of their own"):
        get(RemoteFile("data.bin", f"{server.base}/other/data.bin"), tmp_path)


def test_a_file_below_the_folder(server: Server, tmp_path: Path) -> None:
    get(RemoteFile("sub/data.bin", f"{server.base}/data.bin", md5=MD5), tmp_path)
    assert (tmp_path / "sub" / "data.bin").read_bytes() == BODY


def test_two_downloads_of_one_file_at_once(server: Server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "data.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            get(remote(server), tmp_path)


def test_a_file_that_is_handed_out_by_hand(tmp_path: Path) -> None:
    file = RemoteFile("data.bin", "", about="ask the authors")
    with pytest.raises(InputError, match="no address") as caught:
        download([file], tmp_path)
    assert f"ask the authors -> {tmp_path / 'data.bin'}" in str(caught.value)
    with pytest.raises(InputError, match=r"1 of 1 files are missing: data\.bin") as caught:
        check_files([file], tmp_path)
    assert "ask the authors" in str(caught.value)
    (tmp_path / "data.bin").write_bytes(BODY)
    (found,) = check_files([file], tmp_path)
    assert (found.trust, found.sha256) == ("nothing", SHA256)
    assert left(tmp_path) == {"data.bin"}


def test_a_file_put_there_by_hand_must_be_the_publishers(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(BODY[:-1])
    with pytest.raises(InputError, match="expected"):
        check_files([RemoteFile("data.bin", "https://a.example/data.bin", size=len(BODY))], tmp_path)
