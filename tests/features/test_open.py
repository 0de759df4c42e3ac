import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from prismrec.base.errors import DamagedError, InputError
from prismrec.features.encoder_file import FILE, write_encoder_file
from prismrec.features.open import _OURS, foreign_class, load_encoder, make_encoder

TEXTS = ["a red chair", "a blue table", "a red lamp"]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def sound() -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(4_000) / 5), 16_000, format="WAV")
    return buffer.getvalue()


CONTENTS = {"text": TEXTS, "image": [picture()], "audio": [sound()]}


@pytest.mark.parametrize("kind", ["text", "image", "audio"])
def test_defaults_are_made_saved_and_loaded(kind, tmp_path):
    encoder = make_encoder(kind)
    assert encoder.kind == kind
    encoder.fit(CONTENTS[kind])
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert type(again) is type(encoder)
    assert again.spec() == encoder.spec()
    assert again.dim == encoder.dim
    assert json.loads(json.dumps(encoder.spec())) == encoder.spec()
    assert np.array_equal(again.encode(CONTENTS[kind])[0], encoder.encode(CONTENTS[kind])[0])


def test_only_the_text_encoder_learns():
    assert [make_encoder(kind).needs_fit for kind in ("text", "image", "audio")] == [True, False, False]


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="'video'"):
        make_encoder("video")


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such", "~/no/such", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused_and_the_default_named(name):
    with pytest.raises(InputError, match=r"no such folder[\s\S]*'default'"):
        make_encoder("image", name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        make_encoder("image", str(tmp_path))


def test_an_empty_folder_holds_no_encoder(tmp_path):
    with pytest.raises(InputError):
        load_encoder(tmp_path)


def test_an_encoder_of_ones_own_is_named_and_not_looked_for(tmp_path):
    write_encoder_file(tmp_path, "Path", {})
    assert foreign_class(tmp_path) == "Path"
    with pytest.raises(InputError, match="'Path', which is not prismrec's"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", _OURS)
def test_every_encoder_of_prismrec_is_known_as_such(tmp_path, name):
    write_encoder_file(tmp_path, name, {})
    assert foreign_class(tmp_path) is None
    with pytest.raises((DamagedError, InputError)) as found:
        load_encoder(tmp_path)
    assert "which is not prismrec's" not in str(found.value)


def test_another_revision_of_the_descriptors_is_refused(tmp_path):
    encoder = make_encoder("image")
    write_encoder_file(tmp_path, "DescriptorEncoder", {**encoder.spec(), "revision": "0"})
    with pytest.raises(InputError, match="descriptors differs"):
        load_encoder(tmp_path)


def test_missing_settings_are_damage(tmp_path):
    make_encoder("image").save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    for name in ("PretrainedImageEncoder", "TfidfSvdEncoder"):
        (tmp_path / FILE).write_text(json.dumps({**content, "class": name, "settings": {}}))
        with pytest.raises(DamagedError):
            load_encoder(tmp_path)


def test_weights_that_are_gone_are_named(tmp_path):
    settings = {"asked": str(tmp_path / "clip"), "revision": "files-0", "precision": "fp32"}
    write_encoder_file(tmp_path, "PretrainedImageEncoder", settings)
    with pytest.raises(InputError, match="clip"):
        load_encoder(tmp_path)


def test_heavy_libraries_are_imported_only_when_needed():
    heavy = ["torch", "sklearn", "librosa", "skimage", "transformers", "soundfile", "scipy"]
    code = f"import sys, prismrec.features.open; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
