import io
import json
import os
import pickle
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.errors import InputError, PrismError
from prismrec.base.ray_session import ray_cluster
from prismrec.data.catalog import Catalog
from prismrec.data.catalog_media import lies_outside
from prismrec.data.media import FileMedia, MemoryMedia, PackedMedia, pack
from prismrec.data.object_media import ObjectMedia
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.encoder_file import write_encoder_file
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.open import make_encoder
from prismrec.features.ray_extract import RayEngine
from prismrec.features.store import FeatureStore
from prismrec.features.text import TfidfSvdEncoder

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

ITEMS = [f"i{n:02d}" for n in range(24)]


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(workers=2) as connected:
        from ray import cloudpickle

        # The workers cannot import this file: what they need of it travels with the task.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield connected


@pytest.fixture
def engine(cluster):
    """One worker: it starts sooner than two."""
    return RayEngine(replace(cluster, workers=1), part_size=4)


class Sizes(Encoder[bytes]):
    """Length and first byte of a content; notes what it encodes; dies or refuses where it is told to."""

    kind = "image"

    def __init__(self, log: Path, fatal: bytes = b"", deaths: int = 0, refused: bytes | None = None):
        self.log, self.fatal, self.deaths, self.refused = log, fatal, deaths, refused

    @property
    def dim(self):
        return 2

    def spec(self):
        return {"name": "sizes"}

    def encode(self, contents):
        vectors = np.zeros((len(contents), 2), dtype=np.float32)
        problems = [None] * len(contents)
        for row, content in enumerate(contents):
            if content == self.refused:
                raise InputError("This cannot be encoded at all.", "Leave it out.")
            self._die_at(content)
            (self.log / f"{content.hex()}-{os.getpid()}-{len(list(self.log.iterdir()))}").touch()
            if content.startswith(b"broken"):
                problems[row] = "it is broken"
            else:
                vectors[row] = len(content), content[0]
        return vectors, problems

    def _die_at(self, content):
        marks = self.log.parent / "deaths"
        marks.mkdir(exist_ok=True)
        if content == self.fatal and len(list(marks.iterdir())) < self.deaths:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self, folder):
        write_encoder_file(folder, "Sizes", self.spec())


def content_of(item):
    return f"{item} ".encode() * (int(item[1:]) + 1)


def packed(folder, items=ITEMS):
    path = folder / "image.parquet"
    pack(path, ((item, content_of(item)) for item in items))
    return Contents(tuple(items), (media := PackedMedia(path)).read, media)


def log(tmp_path, name="log"):
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def same_files(one, other):
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(other)) for p in other.rglob("*") if p.is_file())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_pictures_of_a_folder_a_parquet_file_and_memory_give_the_local_store(engine, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for item in ITEMS:
        pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{item}.png")
    (tmp_path / "pictures" / "i07.png").write_bytes(b"no picture")
    files = FileMedia({item: tmp_path / "pictures" / f"{item}.png" for item in ITEMS})
    pack(tmp_path / "image.parquet", ((item, files.read(item)) for item in ITEMS))
    frame = pl.DataFrame({"item_id": ITEMS})
    with pytest.warns(UserWarning, match="i07"):
        checked = Catalog.read(frame_at(tmp_path, frame), images=tmp_path / "pictures").media["image"]
    sources = {
        "files": files,
        "packed": PackedMedia(tmp_path / "image.parquet"),
        "memory": MemoryMedia({item: files.read(item) for item in ITEMS}),
        "checked": checked,
        "objects": ObjectMedia.below((tmp_path / "pictures").as_uri(), "image", ITEMS),
    }
    for name, media in sources.items():
        contents = Contents.of(Catalog(frame, (), {"image": media}), "image")
        assert lies_outside(contents.media) == (name != "memory")
        local = extract(contents, DescriptorEncoder(), tmp_path / "local" / name, name="image")
        there = extract(contents, DescriptorEncoder(), tmp_path / "ray" / name, name="image", engine=engine)
        assert there.content_hash == local.content_hash
        assert same_files(tmp_path / "local" / name, tmp_path / "ray" / name)
        assert list(there.problems) == ([] if name == "checked" else ["i07"])


def frame_at(folder, frame):
    frame.write_parquet(folder / "items.parquet")
    return folder / "items.parquet"


def test_texts_are_fitted_here_and_encoded_there(engine, tmp_path):
    texts = {f"i{n}": f"a {c} {t}" for n, (c, t) in enumerate(
        (c, t) for c in ("red", "blue", "green") for t in ("mug", "lamp", "chair", "table"))}  # fmt: skip
    texts["blank"] = "?"
    contents = Contents(tuple(texts), texts.__getitem__)
    extract(contents, TfidfSvdEncoder(4), tmp_path / "local", name="text")
    extract(contents, TfidfSvdEncoder(4), tmp_path / "ray", name="text", engine=engine)
    assert same_files(tmp_path / "local", tmp_path / "ray")


def test_a_pretrained_model_is_opened_by_the_worker(engine, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    settings = transformers.ViTConfig(image_size=32, patch_size=16, **sizes)
    transformers.ViTModel(settings).save_pretrained(tmp_path / "vit")
    plain = {"size": {"height": 32, "width": 32}, "image_processor_type": "ViTImageProcessor"}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(plain))
    rng = np.random.default_rng(0)
    pictures = {}
    for item in ITEMS[:6]:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(buffer, "PNG")
        pictures[item] = buffer.getvalue()
    pictures["i05"] = b"no picture"
    contents = Contents(tuple(pictures), (media := MemoryMedia(pictures)).read, media)
    encoder = make_encoder("image", str(tmp_path / "vit"), batch_size=2)
    local = extract(contents, encoder, tmp_path / "local", name="image")
    there = extract(contents, encoder, tmp_path / "ray", name="image", engine=engine)
    assert there.ids == local.ids == tuple(ITEMS[:5])
    # The worker may have other threads, and another order of sums.
    np.testing.assert_allclose(there.vectors, local.vectors, rtol=1e-5, atol=1e-6)
    assert there.encoder == local.encoder
    assert there.digests == local.digests


def test_each_content_is_encoded_once_and_a_second_run_encodes_nothing(engine, tmp_path):
    contents = packed(tmp_path)
    with_twin = MemoryMedia({**{i: content_of(i) for i in ITEMS}, "twin": content_of("i03")})
    twins = Contents((*ITEMS, "twin"), with_twin.read, with_twin)
    first = extract(twins, Sizes(log(tmp_path)), tmp_path / "s", name="image", engine=engine)
    assert len(list(log(tmp_path).iterdir())) == len(ITEMS)
    np.testing.assert_array_equal(first.vectors[24], first.vectors[3])
    again = log(tmp_path, "again")
    second = extract(contents, Sizes(again), tmp_path / "s", name="image", engine=engine)
    assert list(again.iterdir()) == []
    np.testing.assert_array_equal(second.vectors, first.vectors[:24])


def test_a_worker_that_is_killed_loses_nothing(cluster, tmp_path):
    contents, engine = packed(tmp_path), RayEngine(cluster, part_size=4)
    local = extract(contents, Sizes(log(tmp_path, "local-log")), tmp_path / "local", name="image")
    killer = Sizes(log(tmp_path), fatal=content_of("i10"), deaths=1)
    there = extract(contents, killer, tmp_path / "ray", name="image", engine=engine)
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert there.ids == tuple(ITEMS)
    assert there.content_hash == local.content_hash
    assert same_files(tmp_path / "local", tmp_path / "ray")


def test_a_part_that_kills_every_worker_is_named_and_the_others_are_kept(cluster, tmp_path):
    contents = packed(tmp_path, ITEMS[:8])
    killer = Sizes(log(tmp_path), fatal=content_of("i05"), deaths=9)
    engine = RayEngine(cluster, part_size=2)
    with pytest.raises(PrismError, match="'i04' to 'i05', died 4 times"):
        extract(contents, killer, tmp_path / "s", name="image", engine=engine)
    assert len(list((tmp_path / "deaths").iterdir())) == 4
    # The same command goes on, here as there, and the store is the one that it would have been.
    after = log(tmp_path, "after")
    there = extract(contents, Sizes(after), tmp_path / "s", name="image")
    assert 2 <= len(list(after.iterdir())) < 8
    assert there.ids == tuple(ITEMS[:8])


def test_what_cannot_be_encoded_is_noted_with_its_item(engine, tmp_path):
    media = MemoryMedia({"a": b"fine", "b": b"broken one", "c": b"fine too"})
    contents = Contents(("a", "b", "c"), media.read, media)
    there = extract(contents, Sizes(log(tmp_path)), tmp_path / "ray", name="image", engine=engine)
    assert FeatureStore.read(tmp_path / "ray").problems == {"b": "it is broken"}
    assert there.ids == ("a", "c")


def test_our_own_errors_are_not_tried_again_and_keep_their_words(engine, tmp_path):
    contents = packed(tmp_path)
    with pytest.raises(InputError, match="cannot be encoded at all") as caught:
        extract(
            contents, Sizes(log(tmp_path), refused=content_of("i00")), tmp_path / "s", name="image",
            engine=engine,
        )  # fmt: skip
    assert caught.value.hint == "Leave it out."
    assert not any(p.name.startswith(content_of("i00").hex()) for p in log(tmp_path).iterdir())


def test_a_file_that_is_gone_is_named_with_its_item(engine, tmp_path):
    paths = {item: tmp_path / item for item in ITEMS}
    for item, path in paths.items():
        path.write_bytes(content_of(item))
    paths["i09"].unlink()
    media = FileMedia(paths)
    contents = Contents(tuple(ITEMS), media.read, media)
    messages = []
    for chosen in ({}, {"engine": engine}):
        with pytest.raises(InputError) as caught:
            extract(contents, Sizes(log(tmp_path)), tmp_path / "s", name="image", **chosen)
        messages.append(str(caught.value))
    assert "'i09'" in messages[0]
    assert messages[0] == messages[1]


def test_content_that_changes_meanwhile_is_not_kept_under_the_old_digest(engine, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    media = FileMedia({"a": path})
    contents = Contents(("a",), media.read, media)
    with engine.work(contents, Sizes(log(tmp_path)), "key") as work:
        ((item, found),) = work.digests()
        path.write_bytes(b"after")
        with pytest.raises(InputError, match=r"'a' has changed"):
            list(work.encoded([[(found, item)]]))


def test_a_driver_that_is_stopped_goes_on_where_it_was(engine, tmp_path):
    class StopError(Exception):
        pass

    class Stopping:
        def task(self, name, total):
            from prismrec.base.progress import SILENT

            return _Steps() if name.startswith("encode") else SILENT.task(name, total)

        def say(self, text):
            pass

    class _Steps:
        done = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, steps=1, note=None):
            self.done += steps
            if self.done >= 8:
                raise StopError

    contents = packed(tmp_path)
    with pytest.raises(StopError):
        extract(
            contents, Sizes(log(tmp_path)), tmp_path / "s", name="image", engine=engine, progress=Stopping()
        )
    later = log(tmp_path, "later")
    store = extract(contents, Sizes(later), tmp_path / "s", name="image", engine=engine)
    assert len(list(later.iterdir())) == 16
    local = extract(contents, Sizes(log(tmp_path, "l")), tmp_path / "local", name="image")
    assert store.content_hash == local.content_hash


def test_media_read_the_same_after_they_were_sent(tmp_path):
    media = packed(tmp_path).media
    media.read("i03")
    there = pickle.loads(pickle.dumps(media))
    assert tuple(there.ids) == tuple(ITEMS)
    assert there.read("i20") == content_of("i20")
