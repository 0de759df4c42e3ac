import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import polars as pl
import pytest

import prismrec
from prismrec.base.errors import DamagedError, InputError, StorageError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.serving.bundle import open_bundle, write_bundle
from prismrec.serving.bundle_files import MANIFEST


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    home = tmp_path_factory.mktemp("shop") / "shop"
    settings = GeneratedConfig(
        items=200, users=50, interactions_per_user=8, image_size=32, sounds=False, seed=3
    )
    shop = generate(settings).write(home)
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(16))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "features" / kind, name=kind)
    return shop


@pytest.fixture(scope="module")
def run(shop, tmp_path_factory):
    """Return a run to which a new item was added, and one of the catalogue with another picture."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    plan = TrainingPlan(sampling="triplets", epochs=1, batch_size=256, learning_rate=0.01)
    config = MAMEXConfig(dim=16, start="random", missing="renormalise", loss="bpr")
    recommender = train(config, make_split(shop, ItemColdStart()), plan=plan, out=folder)
    names = ["later", shop.catalog.vocabulary.ids[0]]
    pictures = [shop.catalog.media["image"].read(name) for name in shop.catalog.vocabulary.ids[10:12]]
    recommender.add_items(
        Catalog(
            pl.DataFrame({"item_id": names, "title": ["A red mug", "Changed"]}),
            ("title",),
            {"image": MemoryMedia(dict(zip(names, pictures, strict=True)))},
        )
    )
    return folder


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    return write_bundle(run, tmp_path_factory.mktemp("bundles") / "new" / "one")


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made.path, tmp_path / "copy")


def test_it_serves_by_itself(shop, run, made, tmp_path, monkeypatch):
    expected = Recommender.load(run)
    lists = expected.recommend(k=5, explain=True)
    pictures = {name: expected.catalog.media["image"].read(name) for name in expected.item_ids}
    moved = shutil.move(shop.path, tmp_path / "away")
    hidden = shutil.move(run, tmp_path / "hidden")
    try:
        bundle = open_bundle(made.path)
        found = bundle.recommender()
        assert found.recommend(k=5, explain=True).equals(lists)
        assert found.item_ids.ids == expected.item_ids.ids
        assert found.digests == expected.digests
        assert "later" in found.item_ids
        there = {name: picture for name, picture in pictures.items() if picture is not None}
        assert len(there) > 180
        assert {name: bundle.pictures.read(name) for name in bundle.pictures.ids} == there
        assert {name: found.catalog.media["image"].read(name) for name in found.item_ids} == pictures
        text = "".join(p.read_text() for p in made.path.rglob("*.json"))
        assert str(shop.path) not in text
    finally:
        shutil.move(moved, shop.path)
        shutil.move(hidden, run)


def test_what_it_says_of_itself(run, made):
    raw = json.loads((made.path / MANIFEST).read_text())
    assert (raw["format"], raw["format_version"]) == ("prismrec-bundle", 1)
    assert raw["prismrec"] == prismrec.__version__
    assert raw["model"] == made.model == Recommender.load(run).manifest.model
    assert raw["encoders"]["text"]["name"]
    assert made.encoders == {n.name: n.encoder for n in Recommender.load(run).manifest.features}
    files = {p.relative_to(made.path).as_posix() for p in made.path.rglob("*") if p.is_file()}
    assert set(raw["files"]) == files - {MANIFEST}
    assert raw["files"]["run.json"]["size"] == (made.path / "run.json").stat().st_size
    assert not made.plain_run
    assert {p.suffix for p in made.path.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".parquet"}


def test_the_version_is_that_of_the_contents(run, made, tmp_path):
    again = write_bundle(run, tmp_path / "again")
    assert again.version == made.version
    without = write_bundle(run, tmp_path / "without", pictures=False)
    assert without.version != made.version
    assert list(without.pictures.ids) == []
    assert write_bundle(made.path, tmp_path / "of-a-bundle").version == made.version


def test_a_recommender_of_a_bundle_writes_nothing_into_it(made):
    recommender = made.recommender()
    report = recommender.add_items(
        Catalog(pl.DataFrame({"item_id": ["x"], "title": ["red mug"]}), ("title",))
    )
    assert report.added == ("x",)
    assert open_bundle(made.path) == made
    assert "x" not in open_bundle(made.path).recommender().item_ids


def test_each_missing_altered_or_truncated_file_is_named(copy):
    names = [p for p in sorted(copy.rglob("*")) if p.is_file() and p.name != MANIFEST]
    assert len(names) > 8
    for file in names:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DamagedError, match=f"{file}: the file is missing.*\n.*again"):
            open_bundle(copy)
        file.write_bytes(content[:-1])
        with pytest.raises(DamagedError, match=f"{file}: has .* bytes instead of"):
            open_bundle(copy)
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(DamagedError, match=f"{file}: the file was altered"):
            open_bundle(copy)
        open_bundle(copy, check=False)
        file.write_bytes(content)
    open_bundle(copy)


@pytest.mark.parametrize("name", ["extra.txt", "added/000000/batch.json", "catalog/image.parquet.partial"])
def test_a_file_too_many_is_named(copy, name):
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("{}")
    with pytest.raises(DamagedError, match=f"{name}: does not belong"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", "0" * 32, "version does not fit"),
        ("version", 7, "version"),
        ("created", "yesterday", "created"),
        ("model", "BPR-MF", "was altered"),
        ("encoders", {}, "was altered"),
        ("files", {}, "version does not fit"),
        ("files", {"run.json": {"size": "large"}}, "files.run.json"),
        ("surprise", 1, "surprise"),
    ],
)
def test_an_altered_manifest_is_named(copy, field, value, message):
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**raw, field: value}))
    with pytest.raises(DamagedError, match=rf"bundle\.json.*{message}"):
        open_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "prismrec-bundle"'])
def test_a_torn_manifest_is_named(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(DamagedError, match=r"bundle\.json"):
        open_bundle(copy)


def test_a_newer_bundle_says_which_version_it_needs(copy):
    raw = json.loads((copy / MANIFEST).read_text())
    newer = {**raw, "format_version": 2, "prismrec": "7.1.0", "unheard-of": {}}
    (copy / MANIFEST).write_text(json.dumps(newer))
    with pytest.raises(InputError, match=r"Install prismrec 7\.1\.0 or a later one"):
        open_bundle(copy)


def test_other_folders_are_no_bundles(shop, copy, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "file", shop.path):
        with pytest.raises(InputError, match=r"is neither|is not a bundle"):
            open_bundle(path)
    (copy / MANIFEST).write_text('{"format": "somebody else\'s"}')
    with pytest.raises(InputError, match="is not a bundle"):
        open_bundle(copy)


def test_a_plain_run_may_be_served(run, tmp_path):
    home = shutil.copytree(run, tmp_path / "run")
    bundle = open_bundle(home)
    assert bundle.plain_run
    expected = Recommender.load(home)
    found = bundle.recommender()
    assert found.recommend(k=5).equals(expected.recommend(k=5))
    assert bundle.pictures.read("later") == expected.catalog.media["image"].read("later") is not None
    assert set(bundle.pictures.ids) == set(expected.catalog.media["image"].ids)
    # What answers otherwise has another version: here, an item more. The bundle itself writes nothing.
    new = Catalog(pl.DataFrame({"item_id": ["x"], "title": ["red mug"]}), ("title",))
    found.add_items(new)
    assert open_bundle(home).version == bundle.version
    expected.add_items(new)
    assert open_bundle(home).version != bundle.version
    (home / "vectors.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"vectors\.safetensors"):
        open_bundle(home)


def test_a_data_set_that_is_gone_is_asked_for(shop, run, made, tmp_path):
    home = shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((home / "run.json").read_text())
    (home / "run.json").write_text(json.dumps({**manifest, "dataset_path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match=r"gone: the run's data set is not there.*\n.*without pictures"):
        write_bundle(home, tmp_path / "out")
    found = write_bundle(home, tmp_path / "out", dataset=shop.path)
    assert found.version == made.version
    other = shutil.copytree(shop.path, tmp_path / "other")
    notes = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**notes, "content_hash": "0" * 32}))
    with pytest.raises(InputError, match="other: is not the data set"):
        write_bundle(home, tmp_path / "out-2", dataset=other)
    assert not (tmp_path / "out-2").exists()


def test_a_bundle_is_never_overwritten(run, made, tmp_path):
    with pytest.raises(InputError, match="a bundle is never changed"):
        write_bundle(run, made.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="never changed"):
        write_bundle(run, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert write_bundle(run, tmp_path / "empty").version == made.version


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prismrec.serving.bundle.pack", refuse)
    with pytest.raises(StorageError, match="disk is full"):
        write_bundle(run, tmp_path / "out" / "one")
    assert list((tmp_path / "out").iterdir()) == []


# One process imports everything and forks for each attempt: threads of libraries do not survive a fork, so it
# does nothing else before.
_KILLED = """
import os, random, signal, sys
import safetensors.torch, scipy.sparse, torch
from prismrec.serving.bundle import write_bundle

run, home = sys.argv[1:]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}

def attempt(out, die_at):
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, int(os.read(reader, 20) or 0)
    count = 0
    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in CHANGES or writes) and str(arguments[0]).startswith(home):
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    status = 1
    try:
        torch.set_num_threads(1)
        sys.addaudithook(hook)
        write_bundle(run, out)
        os.write(writer, str(count).encode())
        status = 0
    finally:
        os._exit(status)

status, changes = attempt(home + "/calm", None)
assert status == 0 and changes > 15, (status, changes)
# Two of them strike at the end, where the bundle gets its name.
for at in (changes, changes - 1, *random.sample(range(1, changes - 1), 3)):
    print(at, *attempt(f"{home}/killed-{at}", at))
"""


def test_a_kill_leaves_nothing_or_a_whole_bundle(run, made, tmp_path):
    script = [sys.executable, "-c", _KILLED, str(run), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attempts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [status for _, status, _ in attempts] == [-signal.SIGKILL] * 5
    for at, _, _ in attempts:
        out = tmp_path / f"killed-{at}"
        if out.exists():
            assert open_bundle(out).version == made.version
    last = tmp_path / f"killed-{attempts[0][0]}"
    assert not last.exists()
    assert write_bundle(run, last).version == made.version


def test_pictures_are_read_from_several_threads(made):
    pictures = open_bundle(made.path).pictures
    expected = {name: pictures.read(name) for name in pictures.ids}
    wrong = []

    def read(offset):
        names = list(expected)
        for name in names[offset:] + names[:offset]:
            if pictures.read(name) != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(n * 7,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pictures.read("unknown") is None


def test_a_run_without_pictures(tmp_path):
    settings = GeneratedConfig(
        items=200, users=20, interactions_per_user=5, image_size=32, sounds=False, seed=1
    )
    shop = generate(settings)
    plain = type(shop)(shop.interactions, Catalog(shop.catalog.items, shop.catalog.text_columns))
    plan = TrainingPlan(metric="ndcg@5")
    train(PopularityConfig(), make_split(plain, ItemColdStart()), plan=plan, out=tmp_path / "run")
    bundle = write_bundle(tmp_path / "run", tmp_path / "bundle")
    assert list(bundle.pictures.ids) == []
    assert bundle.pictures.read(shop.catalog.vocabulary.ids[0]) is None
    assert bundle.encoders == {}
    assert bundle.recommender().recommend(k=3).height > 0
    assert not os.path.lexists(bundle.path / "catalog" / "image.parquet")
