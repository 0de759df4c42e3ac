import json
from pathlib import Path


def test_trained_twice_trains_once(call, shop, tmp_path: Path) -> None:
    words = ("train", shop.data, "--model", "mamex", "--out", tmp_path / "run", "--seed", 4)
    words += ("--set", "dim=8", "--set", "experts=2", "--set", "training.epochs=2", "--set", "fusion=mean")
    words += ("--modalities", "text,image", "--json")
    first = call(*words)
    assert first.code == 0, first.stderr
    document = first.document
    assert not document["already_trained"]
    assert (document["config"]["dim"], document["config"]["fusion"]) == (8, "mean")
    assert document["training"]["epochs"] == 2
    assert (document["model"], document["preset"], document["seed"]) == ("mamex", "tuned", 4)
    assert list(document["modalities"]) == ["text", "image"]
    assert document["epochs"] == 2
    written = (tmp_path / "run" / "run.json").read_bytes()

    again = call(*words)
    assert again.code == 0
    assert again.document["already_trained"]
    assert "already trained" in again.stderr
    assert (tmp_path / "run" / "run.json").read_bytes() == written

    other = call(*words, "--set", "dim=9")
    assert other.code == 3
    assert "dim 8, now 9" in other.document["error"]["problem"]
    assert "--restart" in other.document["error"]["hint"]
    assert call(*words, "--set", "dim=9", "--restart").document["config"]["dim"] == 9


def test_command_line_goes_before_the_recipe(call, shop, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'seed = 7\n[model]\nname = "mamex"\npreset = "paper"\ndim = 8\nexperts = 2\n'
        "[training]\nepochs = 1\nbatch_size = 256\n[split]\ntest = 0.2\nseed = 5\n"
    )
    done = call(
        "train", shop.data, "--recipe", recipe, "--out", tmp_path / "run", "--set", "dim=6", "--test", 0.15,
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    document = done.document
    assert (document["preset"], document["seed"]) == ("paper", 7)
    assert (document["config"]["dim"], document["config"]["experts"]) == (6, 2)
    assert (document["training"]["batch_size"], document["training"]["patience"]) == (256, 20)
    assert (document["split"]["test"], document["split"]["seed"]) == (0.15, 5)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["preset"] == "paper"


def test_misspelt_setting_model_split_and_preset_name_the_nearest(call, shop, tmp_path: Path) -> None:
    for words, wrong, right in (
        (("--model", "mamex", "--set", "topk=3"), "topk", "top_k"),
        (("--model", "mames"), "mames", "mamex"),
        (("--model", "mamex", "--preset", "papper"), "papper", "paper"),
        (("--model", "mamex", "--split", "item-cold"), "item-cold", "item-cold-start"),
        (("--model", "mamex", "--set", "training.batchsize=3"), "batchsize", "batch_size"),
        (("--model", "mamex", "--set", "batch_size=3"), "batch_size", "training.batch_size"),
    ):
        done = call("train", shop.data, *words, "--out", tmp_path / "run", "--json")
        error = done.document["error"]
        assert (done.code, error["kind"]) == (3, "ConfigError")
        assert repr(wrong) in error["problem"]
        assert right in error["hint"]
    assert not (tmp_path / "run").exists()


def test_value_out_of_its_bounds(call, shop, tmp_path: Path) -> None:
    done = call("train", shop.data, "--model", "mamex", "--set", "dim=0", "--out", tmp_path / "run", "--json")
    assert done.code == 3
    assert "'dim'" in done.document["error"]["problem"]


def test_a_folder_of_other_things_is_left_alone(call, shop, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = call("train", shop.data, "--model", "random", "--out", tmp_path, "--restart")
    assert done.code == 3
    assert "thesis.tex" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_features_that_are_not_there(call, shop, tmp_path: Path) -> None:
    done = call("train", shop.data, "--model", "mamex", "--modalities", "smell", "--out", tmp_path / "r")
    assert done.code == 3
    assert "smell" in done.stderr
    assert "prismrec encode" in done.stderr


def test_no_model_named(call, shop, tmp_path: Path) -> None:
    done = call("train", shop.data, "--out", tmp_path / "run", "--set", "training.epochs=1", "--json")
    assert done.code == 0, done.stderr
    assert done.document["model"] == "holo"
    done = call("train", shop.data, "--split", "random-holdout", "--out", tmp_path / "other")
    assert done.code == 3
    assert "prismrec models" in done.stderr
