import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from prismrec.base.errors import ConfigError, InputError
from prismrec.base.progress import SILENT
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.splits import ItemColdStart, LeaveLast, RandomHoldout, Split, TrainOnAll, make_split
from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.cooccurrence import CooccurrenceConfig
from prismrec.models.holo import HOLOConfig
from prismrec.models.kernel_blend import KernelBlendConfig
from prismrec.models.kernel_ridge import KernelRidgeConfig
from prismrec.models.linear_map import LinearMapConfig
from prismrec.models.local_kernel import LocalKernelConfig
from prismrec.models.plan import TrainingPlan
from prismrec.models.popularity import PopularityConfig
from prismrec.models.sasrec import SASRecConfig
from prismrec.recommender import train as module
from prismrec.recommender.evaluate import evaluate
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import open_features, train, validation_of

FIXED = LocalKernelConfig(smoothing=0.0, power=8, neighbours=0, penalty=1.0, tune=False)
"""Nothing is left to choose."""


def test_the_manifest_tells_how_it_came_about(run, split, config, plan):
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["model"] == "mamex"
    assert manifest["preset"] == "small"
    assert manifest["config"] == config.model_dump(mode="json")
    assert manifest["training"] == plan.model_dump(mode="json")
    assert manifest["split_hash"] == split.hash
    assert manifest["dataset_hash"] == split.dataset.content_hash
    assert [f["name"] for f in manifest["features"]] == ["image", "text"]
    assert len(manifest["history"]["epochs"]) == 3
    assert manifest["seconds"]["fit"] > 0
    assert manifest["test_openings"] == []


def test_the_folder_of_a_finished_run_holds_no_checkpoint_and_no_leftovers(run):
    assert {p.name for p in run.iterdir()} == {
        "run.json", "model.safetensors", "vectors.safetensors", "split", "catalog", "encoders"
    }  # fmt: skip
    assert not list(run.rglob("*.partial"))


def test_the_same_seed_gives_the_same_recommender(split, config, plan):
    one, two, other = (train(config, split, plan=plan, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.items.vectors, two.items.vectors)
    np.testing.assert_array_equal(one.users, two.users)
    assert not np.array_equal(one.users, other.users)


def test_validation_in_training_is_the_evaluation_of_the_part(recommender):
    history = recommender.manifest.history
    (part,) = evaluate(recommender, part="valid", candidates=["strict"]).parts
    assert part.metrics["ndcg@10"].mean == pytest.approx(history.best_metric, abs=1e-6)


def test_a_model_of_sequences_reads_the_order_before_and_after_it_is_saved(shop, tmp_path):
    split = make_split(shop, LeaveLast())
    plan = TrainingPlan(sampling="users", epochs=2, batch_size=64, learning_rate=0.01)
    trained = train(SASRecConfig(dim=8), split, plan=plan, out=tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.split.order, split.order)
    vectors = loaded.model.user_vectors(torch.arange(len(split.users))).detach().numpy()
    np.testing.assert_allclose(vectors, trained.users, atol=1e-6)
    user = int(split.train.users[0])
    mine = split.train.users == user
    taken = split.train.items[mine][np.argsort(split.train_order[mine], kind="stable")]
    names = split.items.names(taken)
    np.testing.assert_allclose(loaded.fold_in(names), trained.users[user], atol=1e-5)
    assert not np.allclose(loaded.fold_in(names[::-1]), trained.users[user], atol=1e-3)


def test_a_model_of_sequences_needs_an_order(shop):
    split = replace(make_split(shop, RandomHoldout()), order=None)
    plan = TrainingPlan(sampling="users", epochs=1)
    with pytest.raises(InputError, match="'timestamp' or 'position'"):
        train(SASRecConfig(dim=8), split, plan=plan)


def test_users_without_history_are_validated_as_they_are_served(shop, split, config, plan):
    # Ten users of the validation part lose their training interactions.
    chosen = np.unique(split.valid.users)[:10]
    gone = np.isin(split.pairs.users, chosen) & (split.parts == 0)
    parts = np.where(gone, 2, split.parts).astype(np.int8)
    bare = Split(split.plan, split.users, split.items, split.pairs, parts, shop)
    recommender = train(config, bare, plan=plan)
    (part,) = evaluate(recommender, part="valid", candidates=["strict"]).parts
    assert part.users_without_history == 10
    assert part.metrics["ndcg@10"].mean == pytest.approx(recommender.manifest.history.best_metric, abs=1e-6)


def test_neither_training_nor_validation_reads_the_test_part(shop, config, plan):
    split = make_split(shop, ItemColdStart(valid=0.15, test=0.15, seed=4))
    scrambled = split.pairs.items.copy()
    random = np.random.default_rng(0)
    test = np.flatnonzero(split.parts == 2)
    # Other users for the same test items: whoever looks at the test part gets another result.
    users = split.pairs.users.copy()
    users[test] = random.permutation(users[test])
    other = Split(
        split.plan, split.users, split.items, type(split.pairs)(users, scrambled), split.parts, shop
    )
    one, two = (train(config, s, plan=plan) for s in (split, other))
    np.testing.assert_array_equal(one.users, two.users)
    np.testing.assert_array_equal(one.items.vectors, two.items.vectors)
    assert not (shop.path / "splits" / f"{split.hash}.json").exists()


def test_content_of_cold_items_does_not_reach_the_weights(split, config, plan):
    stores = open_features(split.dataset)
    cold = ~split.warm_items
    changed = []
    for store in stores:
        vectors = np.array(store.vectors)
        rows = store.rows([split.items.ids[i] for i in np.flatnonzero(cold)])
        vectors[rows[rows >= 0]] += 1
        changed.append(FeatureStore(store.name, vectors, store.ids, store.digests, store.encoder))
    # Without validation, which may look at cold items.
    no_validation = plan.model_copy(update={"evaluate_every": 4, "epochs": 2, "candidates": "warm"})
    one, two = (
        train(config, _without_validation(split), plan=no_validation, features=f) for f in (stores, changed)
    )
    np.testing.assert_array_equal(one.users, two.users)
    np.testing.assert_array_equal(one.items.vectors[~cold], two.items.vectors[~cold])
    assert not np.array_equal(one.items.vectors[cold], two.items.vectors[cold])


def _without_validation(split):
    parts = np.where(split.parts == 1, 2, split.parts).astype(np.int8)
    return Split(split.plan, split.users, split.items, split.pairs, parts, split.dataset)


def test_closed_form_models_are_trained_too(split, tmp_path):
    recommender = train(LinearMapConfig(), split, out=tmp_path / "run")
    history = recommender.manifest.history
    assert history.best_metric is not None
    assert history.epochs == []
    assert history.chosen


def test_models_without_content_need_no_features(planted):
    recommender = train(PopularityConfig(), planted.split)
    assert recommender.modalities == ()
    counts = np.bincount(planted.split.train.items, minlength=90)
    best = recommender.recommend(["stranger"], k=1)["item_id"][0]
    assert counts[recommender.item_ids.code(best)] == counts.max()


def test_training_on_all_runs_every_epoch(shop, config, plan):
    recommender = train(config, make_split(shop, TrainOnAll()), plan=plan)
    assert len(recommender.manifest.history.epochs) == 3
    assert recommender.manifest.history.best_metric is None


def test_warm_splits_validate_on_warm_items(shop, config, plan):
    recommender = train(config, make_split(shop, RandomHoldout()), plan=plan)
    (part,) = evaluate(recommender, part="valid").parts
    assert part.candidates == "warm"
    assert part.metrics["ndcg@10"].mean == pytest.approx(recommender.manifest.history.best_metric, abs=1e-6)


def test_features_are_opened_by_name_and_in_order(shop):
    assert [s.name for s in open_features(shop)] == ["image", "text"]
    assert [s.name for s in open_features(shop, ["text", "image"])] == ["text", "image"]
    with pytest.raises(InputError, match=r"no features audio[\s\S]*image, text"):
        open_features(shop, ["audio"])


def test_missing_features_say_how_to_make_them(planted, tmp_path, config):
    dataset = planted.split.dataset.write(tmp_path / "data")
    split = make_split(dataset, planted.split.plan)
    with pytest.raises(InputError, match=r"no features yet[\s\S]*prismrec encode"):
        train(config, split)
    with pytest.raises(InputError, match="in memory"):
        train(config, planted.split)


def test_a_metric_beyond_the_candidates_is_an_error_for_every_kind_of_model(split, config, plan):
    wrong = plan.model_copy(update={"metric": "ndcg@5000"})
    for settings in (config, LinearMapConfig()):
        with pytest.raises(ConfigError, match="ndcg@5000"):
            train(settings, split, plan=wrong)


def test_a_split_of_a_run_cannot_be_trained_on(recommender, config):
    with pytest.raises(InputError, match="read from a run"):
        train(config, recommender.split)


def test_a_folder_of_something_else_is_refused_before_training(split, config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_fit", lambda *args: pytest.fail("it trained"))
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match="not a run"):
        train(config, split, out=tmp_path)
    with pytest.raises(InputError, match="is a file"):
        train(config, split, out=tmp_path / "letters.txt")


def test_training_again_into_a_folder_takes_the_old_run_away(home, split, config, plan, new_items):
    from prismrec.recommender.recommender import Recommender

    old = Recommender.load(home)
    old.add_items(new_items(item_id=["n1"], title=["a red mug"]))
    (home / "evaluation.json").write_text("{}")
    train(config, split, plan=plan, seed=9, out=home)
    fresh = Recommender.load(home)
    assert fresh.manifest.seed == 9
    assert "n1" not in fresh.item_ids
    assert not (home / "evaluation.json").exists()


def test_weights_that_are_no_numbers_are_not_saved(split, config, plan, tmp_path, monkeypatch):
    real = module.compute_catalog

    def broken(*args, **kwargs):
        items = real(*args, **kwargs)
        items.vectors[0, 0] = np.nan
        return items

    monkeypatch.setattr(module, "validation_of", lambda *args: None)
    monkeypatch.setattr(module, "compute_catalog", broken)
    with pytest.raises(InputError, match="diverged"):
        train(config, split, plan=plan, out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_validation_ranks_on_the_device_with_the_same_result(recommender, split, plan, ranked_by_torch):
    features = ItemFeatures(open_features(split.dataset), split.items.ids)
    here = validation_of(split, features, plan)(recommender.model)
    assert not ranked_by_torch
    there = validation_of(split, features, plan, "cuda")(recommender.model)
    assert ranked_by_torch == ["count_above"]
    assert there == here


def test_an_item_without_content_is_kept_and_marked(split, config, plan):
    dataset = split.dataset
    frame = pl.concat([dataset.catalog.items, pl.DataFrame({"item_id": ["bare"]})], how="diagonal")
    grown = Dataset(dataset.interactions, Catalog(frame, dataset.catalog.text_columns))
    recommender = train(config, make_split(grown, split.plan), plan=plan, features=open_features(dataset))
    row = recommender.item_ids.code("bare")
    assert not recommender.can_recommend()[row]
    assert "bare" not in recommender.recommend(k=201)["item_id"].to_list()


class Says(type(SILENT)):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def told(config, split, plan=None):
    """Return what training says of settings that nothing has chosen, and what it took."""
    says = Says()
    recommender = train(config, split, plan=plan, progress=says)
    return [line for line in says.lines if "nothing validates" in line], recommender.manifest.history


def test_a_model_that_cannot_rank_what_is_held_out_says_so_before_it_trains(split):
    says = Says()
    train(PopularityConfig(), split, progress=says)
    assert any("cannot rank the items that this split holds out" in text for text in says.lines)
    says = Says()
    train(LinearMapConfig(), split, progress=says)
    assert not any("cannot rank" in text for text in says.lines)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (KernelRidgeConfig(), "gamma, power, penalty, tune=False"),
        (KernelRidgeConfig(gamma=1.0, tune=False), "power, penalty"),
        (LinearMapConfig(ridge=1.0, tune=False), "dim"),
        (CooccurrenceConfig(gamma=1.0, penalty=1.0, tune=False), "smoothing, power"),
        (
            KernelBlendConfig(weight=0.5, local=FIXED),
            "broad.smoothing, broad.gamma, broad.power, broad.penalty",
        ),
        (ContentProfileConfig(tune=True), "tune=False"),
    ],
)
def test_settings_that_no_validation_has_chosen_are_told(shop, config, settings):
    (line,), history = told(config, make_split(shop, TrainOnAll()))
    assert line.startswith(f"{config.name} chooses settings by validation, and nothing validates here")
    assert f"says: {settings}" in line
    for name, value in history.chosen.items():
        assert f"{name} {value:g}" in line


@pytest.mark.parametrize(
    "config",
    [
        KernelRidgeConfig(gamma=1.0, penalty=1.0, tune=False),
        LinearMapConfig(dim=32, ridge=1.0, tune=False),
        ContentProfileConfig(tune=False),
        PopularityConfig(),
        FIXED,
    ],
)
def test_where_nothing_is_chosen_nothing_is_told(shop, config):
    assert told(config, make_split(shop, TrainOnAll()))[0] == []


def test_settings_that_validation_has_chosen_are_not_told(split):
    assert told(KernelRidgeConfig(), split)[0] == []


def test_one_modality_leaves_no_weights_to_choose(planted):
    split = make_split(planted.split.dataset, TrainOnAll())
    says = Says()
    config = KernelRidgeConfig(gamma=1.0, penalty=1.0)
    train(config, split, features=planted.features, progress=says)
    assert says.lines == []


def test_epochs_that_no_validation_stops_are_told(shop, split, config, plan):
    everything = make_split(shop, TrainOnAll())
    (line,), _ = told(config, everything, plan)
    assert "all 3 epochs" in line
    assert "best_epoch" in line
    assert told(config, everything, plan.model_copy(update={"patience": 0}))[0] == []
    assert told(config, split, plan)[0] == []


def test_what_gradient_steps_begin_with_unchosen_is_told(shop):
    plan = TrainingPlan(sampling="users", epochs=1, patience=0)
    everything = make_split(shop, TrainOnAll())
    (line,), history = told(HOLOConfig(dim=8, rank=8), everything, plan)
    assert line.startswith("holo chooses settings by validation")
    assert f"penalty {history.chosen['penalty']:g}" in line
    assert "says: penalty, popularity, taste, tune=False" in line
    fixed = HOLOConfig(dim=8, rank=8, penalty=1.0, popularity=0.5, taste="factors", tune=False)
    assert told(fixed, everything, plan)[0] == []


@pytest.mark.parametrize(
    "changes",
    [{"strategy": "bsam+"}, {"augmentation": {"feature_noise": 0.1}}],
    ids=["strategy", "augmentation"],
)
def test_a_model_without_steps_refuses_what_changes_steps(split, changes):
    (name,) = changes
    with pytest.raises(InputError, match=f"training.{name} has nothing to change"):
        train(LinearMapConfig(), split, plan=TrainingPlan.model_validate(changes))
