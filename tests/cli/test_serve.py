"""`prismrec serve` and `prismrec bundle`, as they are typed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("lancedb")

COMMAND = [sys.executable, "-c", "from prismrec.cli import main; main()", "serve"]


def started(*words: object, **environment: str) -> tuple[subprocess.Popen[str], str, list[str]]:
    """Start the service; return the process, its address, and what it said before it answers."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        address = re.search(r"http://127[.]0[.]0[.]1:[0-9]+", "".join(said))
        if address:
            return process, address.group(), said
    raise AssertionError("".join(said))


def test_it_answers_takes_an_item_and_ends_in_order(shop, tmp_path) -> None:
    words = (shop.run, "--port", 0, "--store", tmp_path / "items")
    process, address, said = started(*words)
    try:
        with urllib.request.urlopen(f"{address}/ready", timeout=60) as ready:
            assert ready.status == 200
        put = urllib.request.Request(
            f"{address}/v1/items/later",
            b'{"attributes": {"title": "A mug that came later"}}',
            {"Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(put, timeout=60) as answer:
            assert answer.status == 201
        with urllib.request.urlopen(f"{address}/", timeout=60) as page:
            assert "text/html" in page.headers["Content-Type"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    assert not any("gone when the service ends" in line for line in said)
    process, address, _ = started(*words)
    try:
        with urllib.request.urlopen(f"{address}/v1/items/later", timeout=60) as item:
            assert item.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(call, tmp_path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = call("serve", tmp_path / "no run at all", "--port", port)
    assert done.code == 3
    assert str(port) in done.stderr
    assert "--port" in done.stderr


def test_short_answers_are_sent_at_once() -> None:
    from prismrec.serving.server import listen
    from prismrec.serving.settings import ServeSettings

    with listen(ServeSettings(port=0)) as taken:
        # By this asyncio knows whose connections get TCP_NODELAY; accepted ones take it over.
        assert taken.proto == socket.IPPROTO_TCP


def test_a_folder_that_is_no_run_and_a_host_without_keys_are_refused(call, tmp_path) -> None:
    done = call("serve", tmp_path, "--port", 0)
    assert done.code == 3
    assert str(tmp_path) in done.stderr.replace("\n", "")
    assert call("serve", tmp_path, "--host", "0.0.0.0").code == 3
    assert call("serve").code == 2


def test_a_new_key_is_shown_with_its_line_for_the_settings(call, tmp_path) -> None:
    import hashlib
    import tomllib

    from prismrec.serving.settings import read_settings

    made = call("serve", "--new-key", "shop", "--json").document
    assert made["sha256"] == hashlib.sha256(made["key"].encode()).hexdigest()
    shown = call("serve", "--new-key", "shop").stdout
    lines = shown.partition("For the settings:")[2]
    assert tomllib.loads(lines)["keys"][0]["scopes"] == ["read", "write"]
    (tmp_path / "serve.toml").write_text(lines)
    (key,) = read_settings(tmp_path / "serve.toml", {}).keys
    assert key.name == "shop"


def test_a_bundle_serves_and_is_never_changed(call, shop, tmp_path) -> None:
    done = call("bundle", shop.run, "--out", tmp_path / "bundle", "--json")
    assert done.code == 0
    assert done.document["model"] == "content-profile"
    again = call("bundle", shop.run, "--out", tmp_path / "bundle")
    assert again.code == 3
    process, address, _ = started(tmp_path / "bundle", "--port", 0)
    try:
        with urllib.request.urlopen(f"{address}/v1/status", timeout=60) as status:
            assert done.document["version"] in status.read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    with (tmp_path / "bundle" / "catalog" / "items.parquet").open("ab") as file:
        file.write(b"!")
    refused = subprocess.run(
        [*COMMAND, str(tmp_path / "bundle"), "--port", "0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 5
    assert "items.parquet" in refused.stderr


def test_an_index_is_shown_and_at_the_end_folder_and_port_are_free_again(shop, tmp_path) -> None:
    settings, folder = tmp_path / "serve.toml", tmp_path / "temporary"
    settings.write_text("index_from = 50\nindex_recall = 0.9\n")
    folder.mkdir()
    words = (shop.run, "--port", 0, "--settings", settings, "--compare", shop.run)
    process, address, _ = started(*words, TMPDIR=str(folder))
    end, found = time.monotonic() + 60, {}
    while found.get("search") != "index" and time.monotonic() < end:
        with urllib.request.urlopen(f"{address}/v1/status", timeout=60) as status:
            found = json.loads(status.read())
        time.sleep(0.05)
    assert found["search"] == "index"
    assert found["recall"] >= 0.9
    assert list(folder.glob("prismrec-index-*"))
    os.kill(process.pid, signal.SIGTERM)
    assert "WARN" not in process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert list(folder.glob("prismrec-index-*")) == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/ready", timeout=5)
