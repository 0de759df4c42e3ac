import numpy as np

from prismrec.data.interactions import Pairs
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.folding import fold, learn_folding
from prismrec.recommender.train import train


def test_a_linear_map_from_histories_to_users_is_found():
    random = np.random.default_rng(0)
    items = random.normal(size=(60, 4)).astype(np.float32)
    chosen = [np.sort(random.choice(60, size=int(random.integers(1, 8)), replace=False)) for _ in range(400)]
    histories = [c if n % 10 else c[:0] for n, c in enumerate(chosen)]  # every tenth has none
    slope, shift = random.normal(size=(4, 4)), np.array([1.0, -2.0, 0.0, 3.0])
    users = np.stack(
        [items[h].mean(axis=0) @ slope + shift if len(h) else np.full(4, 99.0) for h in histories]
    )
    who = np.repeat(np.arange(400), [len(h) for h in histories])
    starts, touched = Pairs(who.astype(np.int32), np.concatenate(histories).astype(np.int32)).by_user(400)
    folding = learn_folding(users.astype(np.float32), items, starts, touched)
    liked = items[[3, 17]]
    np.testing.assert_allclose(fold(folding, liked), liked.mean(axis=0) @ slope + shift, atol=0.1)


def test_without_any_history_the_map_is_zero():
    starts, touched = np.zeros(4, dtype=np.int64), np.zeros(0, dtype=np.int32)
    folding = learn_folding(np.ones((3, 2), np.float32), np.ones((5, 2), np.float32), starts, touched)
    np.testing.assert_array_equal(fold(folding, np.ones((1, 2), np.float32)), [0, 0])


def test_items_that_are_all_alike_do_not_explode():
    users = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    starts, touched = Pairs(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32)).by_user(3)
    folding = learn_folding(users, np.ones((5, 2), np.float32), starts, touched)
    found = fold(folding, np.ones((1, 2), np.float32))
    np.testing.assert_allclose(found, users.mean(axis=0), atol=1e-4)


def test_a_folded_user_wants_what_the_trained_user_wants(planted):
    config = MAMEXConfig(dim=16, loss="softmax", item_bias=False, modalities=("own",))
    plan = TrainingPlan(sampling="users", batch_size=64, epochs=40, learning_rate=0.02, patience=0)
    recommender = train(config, planted.split, plan=plan, features=planted.features)
    alike = []
    for name in planted.split.users.ids[:40]:
        history = recommender.history(name)
        folded = recommender.items.vectors @ recommender.fold_in(history)
        trained = recommender.items.vectors @ recommender.user_vector(name)[0]
        alike.append(np.corrcoef(folded, trained)[0, 1])
    others = recommender.items.vectors @ recommender.user_vector(planted.split.users.ids[50])[0]
    assert np.mean(alike) > 0.8
    assert np.mean(alike) > np.corrcoef(folded, others)[0, 1] + 0.2


def test_with_fewer_users_than_dimensions_the_ridge_regression_is_the_same():
    random = np.random.default_rng(4)
    users, items = random.normal(size=(5, 12)), random.normal(size=(9, 12))
    who, what = (
        np.repeat(np.arange(5), 3).astype(np.int32),
        random.permuted(np.tile(np.arange(9), (5, 1)), axis=1),
    )
    what = np.sort(what[:, :3], axis=1).astype(np.int32)
    starts, touched = Pairs(who, what.ravel()).by_user(5)
    found = learn_folding(users.astype(np.float32), items.astype(np.float32), starts, touched)
    means = items[what].mean(axis=1)
    inputs, targets = means - means.mean(axis=0), users - users.mean(axis=0)
    ridge = 1e-2 * np.trace(inputs.T @ inputs) / 12
    slope = np.linalg.inv(inputs.T @ inputs + ridge * np.eye(12)) @ inputs.T @ targets
    np.testing.assert_allclose(found[:-1], slope, atol=1e-4)
    np.testing.assert_allclose(found[-1], users.mean(axis=0) - means.mean(axis=0) @ slope, atol=1e-4)
