import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prismrec.data.dataset import Dataset
from prismrec.data.sources import all_sources, download, movielens
from prismrec.data.sources.source import RemoteFile, Source


def pack(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "ml-latest-small.zip", "w") as archive:
        archive.writestr("ml/movies.csv", "movieId,title,genres\n1,One (1999),Drama\n2,Two (2000),Comedy\n")
        archive.writestr(
            "ml/ratings.csv", "userId,movieId,rating,timestamp\n7,1,5.0,10\n7,2,1.0,20\n8,9,4.0,30\n"
        )
    return folder


def test_the_list_of_sources(call) -> None:
    done = call("source", "--json")
    assert done.code == 0, done.stderr
    names = [source["name"] for source in done.document]
    assert names == [source.name for source in all_sources.SOURCES]
    assert {"amazon-2014/baby", "amazon-2018/all-beauty", "movielens/1m"} <= set(names)
    shown = call("source").stdout
    assert all(name in shown for name in names)


def test_what_a_source_needs(call) -> None:
    done = call("source", "movielens/1m", "--json")
    assert done.code == 0
    (file,) = done.document["files"]
    assert (file["name"], len(file["md5"])) == ("ml-1m.zip", 32)
    shown = call("source", "movielens/1m").stdout
    assert file["url"] in shown
    assert "Licence" in shown


def test_local_files_become_a_data_set(call, tmp_path: Path) -> None:
    raw, out = pack(tmp_path / "raw"), tmp_path / "shop"
    words = ("source", "movielens/small", "--raw", raw, "--out", out)
    done = call(*words, "--min-rating", 4, "--json")
    assert done.code == 0, done.stderr
    report = done.document
    assert (report["users"], report["items"], report["interactions"]) == (1, 2, 2)
    assert report["refused"] == {"item_id: unknown item": 1}
    assert (report["parts"], report["features"], report["min_rating"]) == (None, {}, 4.0)
    assert report["reading"]["rows_read"] == {"ratings.csv": 3, "movies.csv": 2}
    assert Dataset.read(out).min_rating == 4.0

    again = call(*words)
    assert again.code == 3
    assert "already" in again.stderr
    shown = call("source", "movielens/small", "--raw", raw, "--out", tmp_path / "other").stdout
    assert "1 users, 2 items, 2 interactions" in shown
    assert "1 x item_id: unknown item" in shown


def test_missing_files_are_named_with_their_address_and_nothing_is_downloaded(call, tmp_path: Path) -> None:
    done = call("source", "amazon-2014/baby", "--raw", tmp_path, "--out", tmp_path / "shop", "--json")
    error = done.document["error"]
    assert done.code == error["exit_code"] == 3
    assert "reviews_Baby_5.json.gz, meta_Baby.json.gz" in error["problem"]
    assert "https://" in error["hint"]
    assert "--download" in error["hint"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("amazon-2014/babies",), "amazon-2014/baby"),
        (("movielens/1m", "--out", "shop"), "--raw"),
        (("movielens/1m", "--raw", "raw"), "--out"),
        (("movielens/1m", "--download"), "--raw"),
        (("mmrec-files", "--raw", "raw", "--download"), "without"),
    ],
)
def test_what_is_missing_is_said(
    call, words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("source", *words)
    assert done.code == 3
    assert expected in done.stderr.replace("leave out", "without")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """Offer a tiny source on this machine, and let the download take it."""
    handler = partial(Handler, directory=str(pack(tmp_path / "offered")))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/ml-latest-small.zip"
        read = partial(movielens.read_movielens, "ml-latest-small.zip", movielens.CSV)
        tiny = Source("tiny", "Tiny.", "free", "nobody", (RemoteFile("ml-latest-small.zip", url),), read)
        monkeypatch.setattr(all_sources, "SOURCES", (tiny,))
        yield tiny
        server.shutdown()


def test_download_on_request(call, offered: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    refused = call("source", "tiny", "--raw", raw, "--download")
    assert refused.code == 3
    assert "not public" in refused.stderr
    assert f"-> {raw / 'ml-latest-small.zip'}" in refused.stderr

    real = download.open_connection
    monkeypatch.setattr(
        download, "open_connection", lambda url, deadline, **_: real(url, deadline, allow_private=True)
    )
    done = call("source", "tiny", "--raw", raw, "--download", "--json")
    assert done.code == 0, done.stderr
    (file,) = done.document["files"]
    assert file["compared_with"] == "first use"
    assert "Licence" in done.stderr or "licence" in done.stderr
    done = call("source", "tiny", "--raw", raw, "--download", "--out", tmp_path / "shop", "--json")
    assert done.code == 0, done.stderr
    assert done.document["files"]["ml-latest-small.zip"]["sha256"] == file["sha256"]
