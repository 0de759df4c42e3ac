from prismrec.models.catalogue import MODELS
from prismrec.models.mamex import MAMEXConfig


def test_all_models_with_capabilities_and_defaults(call) -> None:
    found = {model["name"]: model for model in call("models", "--json").document["models"]}
    assert set(found) == {model.name for model in MODELS}
    assert found["mamex"]["recommends_cold_items"]
    assert not found["popularity"]["recommends_cold_items"]
    assert not found["random"]["uses_content"]
    assert {"paper", "as_released", "tuned"} <= set(found["mamex"]["presets"])
    assert found["mamex"]["defaults"] == MAMEXConfig().model_dump(mode="json")
    assert all(model["phases"] and model["summary"] for model in found.values())

    shown = call("models").stdout
    assert all(model.name in shown for model in MODELS)


def test_one_model_with_its_settings(call) -> None:
    document = call("models", "mamex", "--json").document
    fields = {field["name"]: field for field in document["fields"]}
    assert set(fields) == set(MAMEXConfig.model_fields)
    assert fields["experts"]["type"] == "int"
    assert fields["experts"]["bounds"] == ">= 1, <= 256"
    assert fields["fusion_top_k"]["type"] == "int | none"
    assert fields["loss"]["type"] == "bpr | softmax"
    training = {field["name"]: field for field in document["training_fields"]}
    assert training["sampling"]["default"] == MAMEXConfig.presets()["default"].training.sampling
    shown = call("models", "mamex").stdout
    assert "training.batch_size" in shown
    assert "preset paper" in shown


def test_an_unknown_model_names_the_nearest(call) -> None:
    done = call("models", "mames", "--json")
    assert done.code == 3
    assert "'mamex'" in done.document["error"]["hint"]
