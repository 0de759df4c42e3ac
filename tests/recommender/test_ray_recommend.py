from dataclasses import replace
from importlib.util import find_spec

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prismrec.base.errors import InputError
from prismrec.base.ray_session import ray_cluster
from prismrec.models.lightgcn import LightGCNConfig
from prismrec.recommender.ray_recommend import recommend_on
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.recommender.wanted import Wanted
from prismrec.recommender.write_lists import write_lists

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(workers=2) as connected:
        yield connected


@pytest.fixture(scope="module")
def mamex(config, split, plan, shop, tmp_path_factory) -> Recommender:
    made = train(config, split, plan=plan, seed=0)
    folder = tmp_path_factory.mktemp("run") / "mamex"
    made.save(folder)
    return Recommender.load(folder)


def both(recommender, cluster, users, wanted, part_size):
    here = recommender.recommend(
        users,
        k=wanted.k,
        choose=wanted.choose,
        where=wanted.where,
        exclude_seen=wanted.exclude_seen,
        explain=wanted.explain,
    )
    return here, recommend_on(cluster, recommender, users, wanted, part_size=part_size)


def test_everyone_gets_the_local_lists_in_the_local_order(mamex, cluster, tmp_path):
    here, there = both(mamex, cluster, None, Wanted(k=7), 16)
    assert here["user_id"].n_unique() == 150
    assert_frame_equal(here, there, check_exact=True)
    for name in ("lists.parquet", "lists.csv", "lists.jsonl"):
        write_lists(here, tmp_path / name)
        write_lists(there, tmp_path / f"ray-{name}")
        assert (tmp_path / name).read_bytes() == (tmp_path / f"ray-{name}").read_bytes()


def test_chosen_users_with_all_that_can_be_asked(mamex, cluster):
    users = [mamex.split.users.ids[code] for code in (5, 3, 9, 100)] + ["nobody"]
    wanted = Wanted(k=3, choose="new", where=("price<1000",), exclude_seen=False, explain=True)
    here, there = both(mamex, replace(cluster, workers=1), users, wanted, 2)
    assert there["fallback"].sum() == 3
    assert_frame_equal(here, there, check_exact=True)


def test_a_model_that_knows_items_by_their_graph(cluster, split, plan):
    made = train(LightGCNConfig(dim=8), split, plan=plan, seed=0)
    here, there = both(made, replace(cluster, workers=1), None, Wanted(k=2), 100)
    assert_frame_equal(here, there, check_exact=True)


def test_errors_are_the_local_ones(mamex, cluster):
    one = replace(cluster, workers=1)
    messages = []
    for ask in (
        lambda: mamex.recommend(None, where=["price<0"]),
        lambda: recommend_on(one, mamex, None, Wanted(where=["price<0"])),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(InputError, match="No user"):
        recommend_on(one, mamex, [], Wanted())


def test_the_table_is_sent_without_the_weights_of_the_model(mamex):
    from prismrec.recommender.ray_recommend import _light

    light = _light(mamex)
    assert all(weight.is_meta for weight in light.model.parameters())
    assert not any(weight.is_meta for weight in mamex.model.parameters())
    assert light.modalities == mamex.modalities
    assert_frame_equal(light.recommend(k=2), mamex.recommend(k=2), check_exact=True)
    assert isinstance(light.catalog.items, pl.DataFrame)
