"""The service under load, from a second process: requests a second, waits, memory, while items come in.

    python benchmarks/bench_service.py [--seconds 60] [--items 20000] [--connections 4]

A catalogue of texts is made up and a linear map trained on it. `prismrec serve` runs as its own process with
a store on disk; this process asks for recommendations as fast as it is answered and puts 20 items a second,
ten at a time. Every item that was acknowledged is looked for afterwards. ``--seconds 600`` is the soak.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl

import prismrec as pr
from prismrec.base.machine import machine
from prismrec.features.encode import EncodePlan, encode_catalog

RESULTS = Path(__file__).parent / "results" / "service.json"
ADDS_A_SECOND, BATCH = 20, 10
GOALS = {"requests a second": 500, "p99 in ms": 50, "item recommendable in s": 1.0}
_WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("ara", "elo", "imi", "oru", "unda", "ast", "ent", "ix")]


def trained(folder: Path, items: int, users: int = 2000) -> Path:
    """Make a catalogue, train on it, and return the run."""
    random = np.random.default_rng(0)
    topics = random.integers(0, 12, items)
    texts = [" ".join(random.choice(_WORDS[t * 8 : t * 8 + 8], 6)) for t in topics.tolist()]
    names = [f"i{n}" for n in range(items)]
    catalog = pr.Catalog(
        pl.DataFrame({"item_id": names, "title": texts, "topic": topics.astype(str)}), ("title",)
    )
    tastes = random.integers(0, 12, users)
    rows = [
        (f"u{u}", f"i{i}")
        for u in range(users)
        for i in random.choice(np.flatnonzero(topics == tastes[u]), 20)
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").unique()
    shop = pr.Dataset(pr.Interactions(log), catalog).write(folder / "shop")
    encode_catalog(shop, EncodePlan())
    split = shop.split(pr.ItemColdStart(valid=0.05, test=0.05))
    pr.train(pr.LinearMapConfig(), split, out=folder / "run")
    return folder / "run"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def started(run: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the service; return when it is ready."""
    settings = folder / "serve.toml"
    settings.write_text("[rate]\nper_second = 1e6\nburst = 1000000\n")
    command = [sys.executable, "-c", "from prismrec.cli import main; main()", "serve", str(run)]
    command += ["--store", str(folder / "store"), "--port", str(port), "--settings", str(settings)]
    process = subprocess.Popen(command, stderr=(folder / "log").open("wb"), stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return process
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The service does not get ready: {(folder / 'log').read_text()[-2000:]}")


def ask(port: int, users: int, until: float, waits: list[float], bad: list[int]) -> None:
    """Ask for recommendations, one after the other, until the time is over."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    random = np.random.default_rng(threading.get_ident() % 2**32)
    while time.perf_counter() < until:
        user = int(random.integers(users))
        begun = time.perf_counter()
        connection.request("GET", f"/v1/users/u{user}/recommendations?k=10")
        answer = connection.getresponse()
        answer.read()
        waits.append(time.perf_counter() - begun)
        if answer.status != 200:
            bad.append(answer.status)


def put(port: int, until: float, seen: list[tuple[str, float]], bad: list[int]) -> None:
    """Put items, so many a second; note how long it took until each could be recommended."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    random = np.random.default_rng(1)
    number, first = 0, time.perf_counter()
    while time.perf_counter() < until:
        names = [f"new{n}" for n in range(number, number + BATCH)]
        texts = [" ".join(random.choice(_WORDS, 6)) for _ in names]
        items = [
            {"item_id": name, "attributes": {"title": text, "topic": "new"}}
            for name, text in zip(names, texts, strict=True)
        ]
        begun = time.perf_counter()
        connection.request(
            "POST", "/v1/items:batch", json.dumps({"items": items}), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 201):
            bad.append(answer.status)
        for name in names:
            connection.request("GET", f"/v1/items/{name}")
            there = connection.getresponse()
            if json.loads(there.read()).get("ranked", False):
                seen.append((name, time.perf_counter() - begun))
            else:
                bad.append(there.status)
        number += BATCH
        time.sleep(max(0.0, first + number / ADDS_A_SECOND - time.perf_counter()))


def resident(process: int) -> float:
    """Resident memory in MiB; NaN where the system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(port: int, process: int, seconds: float, connections: int) -> dict[str, object]:
    """Put load on the service."""
    waits: list[float] = []
    bad: list[int] = []
    seen: list[tuple[str, float]] = []
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=ask, args=(port, 2000, until, waits, bad)) for _ in range(connections)]
    threads.append(threading.Thread(target=put, args=(port, until, seen, bad)))
    for thread in threads:
        thread.start()
    memory = []
    while time.perf_counter() < until:
        memory.append(resident(process))
        time.sleep(min(5.0, seconds / 10))
    for thread in threads:
        thread.join()
    found = sum(present(port, name) for name, _ in seen)
    ms = np.array(waits) * 1000
    fifth = max(1, len(memory) // 5)
    return {
        "requests a second": round(len(waits) / seconds, 1),
        "p50 in ms": round(float(np.percentile(ms, 50)), 2),
        "p99 in ms": round(float(np.percentile(ms, 99)), 2),
        "longest in ms": round(float(ms.max()), 1),
        "items put": len(seen),
        "items a second": round(len(seen) / seconds, 1),
        "items lost": len(seen) - found,
        "item recommendable in s": round(max(took for _, took in seen), 3),
        "failed": len(bad),
        "memory in MiB, first fifth": round(float(np.mean(memory[:fifth])), 1),
        "memory in MiB, last fifth": round(float(np.mean(memory[-fifth:])), 1),
    }


def present(port: int, name: str) -> bool:
    """Whether an item is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/v1/items/{name}")
    return connection.getresponse().status == 200


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, port = trained(folder, arguments.items), free_port()
        process = started(run, folder, port)
        try:
            figures = measure(port, process.pid, arguments.seconds, arguments.connections)
        finally:
            process.terminate()
            process.wait(60)
    found = {"arguments": vars(arguments), "figures": figures, "goals": GOALS, "machine": machine()}
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    RESULTS.write_text(json.dumps([*known, found], indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key:32} {value}" + (f"   goal {GOALS[key]}" if key in GOALS else ""))


if __name__ == "__main__":
    main()
