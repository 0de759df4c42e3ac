import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

from prismrec.base import ray_session

RECIPE = """
[bench]
name = "one"
seeds = 1
ks = [10]
[[data]]
name = "shop"
[[model]]
name = "random"
"""

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster():
    """Connect once: verbs use the connection that there is."""
    with ray_session.ray_cluster(workers=1) as connected:
        yield connected


@needs_ray
def test_encode_writes_the_same_files_and_the_second_time_none(call, shop, cluster, tmp_path: Path) -> None:
    data = Path(shutil.copytree(shop.data, tmp_path / "shop", ignore=shutil.ignore_patterns("features")))
    words = ("encode", data, "--engine", "ray", "--workers", 1, "--json")
    done = call(*words)
    assert done.code == 0, done.stderr
    found = done.document["modalities"]
    assert set(found) == {"image", "text", "audio"}
    assert all(m["reused"] == 0 and m["encoded"] > 0 for m in found.values())
    names = sorted(p.relative_to(shop.data) for p in (shop.data / "features").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(data) for p in (data / "features").rglob("*") if p.is_file())
    assert all((data / name).read_bytes() == (shop.data / name).read_bytes() for name in names)
    again = call(*words).document["modalities"]
    assert all(m["encoded"] == 0 and m["reused"] > 0 for m in again.values())


@needs_ray
def test_pictures_may_stay_where_they_are(call, shop, cluster, tmp_path: Path) -> None:
    leave = shutil.ignore_patterns("features", "image.parquet")
    data = Path(shutil.copytree(shop.data, tmp_path / "shop", ignore=leave))
    at = Path(shop.drawn.today.images).as_uri()
    words = ("encode", data, "--text", "none", "--audio", "none", "--images-at", at, "--json")
    done = call(*words, "--engine", "ray", "--workers", 1)
    assert done.code == 0, done.stderr
    folder = Path("features") / "image"
    names = [path.name for path in (shop.data / folder).iterdir() if path.is_file()]
    assert names
    assert all(
        (data / folder / name).read_bytes() == (shop.data / folder / name).read_bytes() for name in names
    )
    assert call(*words).document["modalities"]["image"]["encoded"] == 0


@needs_ray
def test_recommend_writes_the_same_file(call, shop, cluster, tmp_path: Path) -> None:
    words = ("recommend", shop.run, "--all", "--k", 3, "--explain", "--json")
    here = call(*words, "--out", tmp_path / "here.parquet")
    there = call(*words, "--out", tmp_path / "there.parquet", "--engine", "ray", "--workers", 1)
    assert there.code == 0, there.stderr
    assert here.document["rows"] == there.document["rows"] > 0
    assert here.document["fallback_users"] == there.document["fallback_users"]
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert pl.read_parquet(tmp_path / "there.parquet").height == there.document["rows"]


@needs_ray
def test_bench_says_what_it_will_cost_on_the_cluster_and_runs_there(
    call, shop, cluster, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ("bench", tmp_path / "recipe.toml", "--data", f"shop={shop.data}", "--out", tmp_path / "out")
    dry = call(*words, "--engine", "ray", "--dry-run", "--json")
    assert dry.code == 0, dry.stderr
    assert dry.document["cost"]["runs"] == 1
    assert not (tmp_path / "out" / "results").exists()
    done = call(*words, "--engine", "ray", "--jobs", 1, "--threads", 1, "--json")
    assert done.code == 0, done.stderr
    assert call(*words, "--json").document["cost"]["cached"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encode", "shop", "--engine", "spark"), "spark"),
        (("encode", "shop", "--workers", 2), "--engine ray"),
        (("encode", "shop", "--engine", "ray", "--workers", 0), "--workers"),
        (("recommend", "run", "--all", "--ray-address", "auto"), "--engine ray"),
        (("recommend", "run", "--liked", "i1", "--engine", "ray"), "--liked"),
        (("bench", "recipe.toml", "--ray-address", "10.0.0.1:6379"), "--engine ray"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(call, words, said) -> None:
    done = call(*words)
    assert done.code == 2
    assert said in done.stderr
    assert done.stdout == ""


@needs_ray
@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0"])
def test_an_address_that_does_not_answer_is_named(call, shop, address, monkeypatch) -> None:
    monkeypatch.setattr(ray_session, "_connected", lambda: False)
    done = call("encode", shop.data, "--engine", "ray", "--ray-address", address)
    assert done.code == 3
    assert f"--ray-address {address}" in done.stderr


@needs_ray
def test_a_port_that_is_closed_is_said_at_once(call, shop, monkeypatch) -> None:
    monkeypatch.setattr(ray_session, "_connected", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = call("recommend", shop.run, "--all", "--engine", "ray", "--ray-address", address)
    assert done.code == 3
    assert "ray start --head" in done.stderr


def test_without_ray_the_extra_is_named(call, shop, monkeypatch) -> None:
    monkeypatch.setattr(ray_session, "find_spec", lambda name: None)
    done = call("encode", shop.data, "--engine", "ray")
    assert done.code == 4
    assert "prismrec[ray]" in done.stderr
