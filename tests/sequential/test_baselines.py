import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.splits import TRAIN, VALID, LeaveLast, TrainOnAll, make_split
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train
from prismrec.sequential.baselines import asked, first_stage_scores, popularity_scores, random_scores
from prismrec.sequential.examples import Example, Task
from prismrec.sequential.measures import measure

# The catalogue of the examples: other codes than the run's, and an item that the run has never heard of.
ITEMS = ["stranger", *(f"i{n:02d}" for n in reversed(range(20)))]
CODE = {name: code for code, name in enumerate(ITEMS)}
PLAN = TrainingPlan(sampling="triplets", epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    rows = [
        (f"u{u:02d}", f"i{i:02d}", place)
        for u in range(30)
        for place, i in enumerate(random.permutation(19)[:8])  # nobody takes i19
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    ids = [name for name in sorted(ITEMS) if name != "stranger"]
    return Dataset(Interactions(log), Catalog(pl.DataFrame({"item_id": ids})))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bpr"
    train(BPRMFConfig(dim=8), make_split(data, LeaveLast()), plan=PLAN, out=folder)
    return Recommender.load(folder)


def taken(run, user, part):
    """What a user took in a part, as the examples' codes."""
    mask = (run.split.pairs.users == run.split.users.code(user)) & (run.split.parts == part)
    return [CODE[name] for name in run.split.items.names(run.split.pairs.items[mask])]


@pytest.fixture(scope="module")
def questions(run):
    """Each user's validation item among the items that the user did not train on."""
    found = []
    for user in run.split.users:
        history, (positive,) = taken(run, user, TRAIN), taken(run, user, VALID)
        others = [code for code in range(2, len(ITEMS)) if code not in (*history, positive)]
        found.append(Example(user, tuple(history), (positive,), (*others[:4], positive, *others[4:8])))
    return found


def test_scores_are_the_runs_own(run, questions):
    found = first_stage_scores(questions, run, ITEMS)
    for one in found.scored:
        names = [ITEMS[code] for code in one.example.candidates]
        listed = run.recommend([one.example.user], k=20)
        theirs = [name for name in listed["item_id"].to_list() if name in names]
        assert [names[place] for place in np.argsort(-one.scores)] == theirs
        kept = listed.filter(pl.col("item_id") == theirs[0])["score"][0]
        assert one.scores.max() == pytest.approx(kept, rel=1e-5)
    assert (found.folded, found.averaged, found.without_vector) == (0, 0, 0)
    # The validation part chose the run's weights: that has to be said.
    assert found.validated == len(questions)
    assert "validation part" in found.notes()[0]


def test_a_new_user_is_answered_from_the_shown_history(run):
    history = (CODE["stranger"], CODE["i03"], CODE["i04"])
    new = Example("nobody", history, (CODE["i05"],), (CODE["i05"], CODE["i06"]))
    found = first_stage_scores([new], run, ITEMS)
    vector = run.fold_in(["i03", "i04"])
    rows = [run.item_ids.code(name) for name in ("i05", "i06")]
    np.testing.assert_allclose(found.scored[0].scores, run.items.vectors[rows] @ vector, rtol=1e-5)
    assert (found.folded, found.averaged) == (1, 0)


def test_a_known_user_is_answered_from_the_history_when_asked_to(run, questions):
    found = first_stage_scores(questions[:1], run, ITEMS, from_history=True)
    vector = run.fold_in([ITEMS[code] for code in questions[0].history])
    rows = [run.item_ids.code(ITEMS[code]) for code in questions[0].candidates]
    np.testing.assert_allclose(found.scored[0].scores, run.items.vectors[rows] @ vector, rtol=1e-5)
    assert found.folded == 1
    assert found.averaged == 0


def test_what_the_run_does_not_know_is_counted(run):
    # i19 is in the catalogue and nobody took it: a model of interactions has no vector for it.
    candidates = (CODE["i19"], CODE["i05"], CODE["stranger"])
    lost = Example("nobody", (CODE["stranger"],), (CODE["stranger"],), candidates)
    found = first_stage_scores([lost, lost], run, ITEMS)
    assert np.isneginf(found.scored[0].scores).tolist() == [True, False, True]
    assert found.scored[0].scores[1] == pytest.approx(
        run.items.vectors[run.item_ids.code("i05")] @ run.average_user, rel=1e-5
    )
    assert (found.folded, found.averaged, found.without_vector) == (0, 2, 2)
    assert len(found.notes()) == 2
    measured = measure("run", Task.NEXT, found.scored)
    assert measured.metrics["mrr"].mean == pytest.approx(1 / 3)


def test_a_run_that_was_trained_on_what_is_asked_is_refused(data, questions, run):
    whole = train(BPRMFConfig(dim=8), make_split(data, TrainOnAll()), plan=PLAN)
    user, item = questions[0].user, ITEMS[questions[0].positives[0]]
    with pytest.raises(InputError, match=f"'{user}' took item '{item}'") as error:
        first_stage_scores(questions, whole, ITEMS)
    assert f"{len(questions)} of {len(questions)} questions" in str(error.value)
    # Any positive counts, not only the one to find; an item that was not taken does not.
    trained = taken(run, user, TRAIN)[0]
    with pytest.raises(InputError, match="1 of 1 questions"):
        first_stage_scores([Example(user, (), (CODE["i19"], trained), (trained,))], run, ITEMS)
    with pytest.raises(InputError, match="1 of 2 questions"):
        first_stage_scores([questions[0], Example(user, (), (trained,), label=True)], run, ITEMS)
    first_stage_scores([Example(user, (), (trained,), label=False)], run, ITEMS)


def test_a_run_of_other_data_is_refused(run, questions):
    with pytest.raises(InputError, match="knows none of the 21 items"):
        first_stage_scores(questions, run, [f"other{n}" for n in range(21)])
    with pytest.raises(InputError, match="ids of 3 items"):
        first_stage_scores(questions, run, ITEMS[:3])


def test_asked_items():
    assert asked(Example("u", (), (1,), (1, 2))) == (1, 2)
    assert asked(Example("u", (), (1,), listed=(2, 3), label=False)) == (1,)


def test_random_scores_reach_the_expectation_and_follow_the_seed(questions):
    assert [s.scores.shape for s in random_scores(questions, seed=0)] == [(9,)] * len(questions)
    first, again, other = (random_scores(questions, seed=seed)[3].scores for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    many = measure("random", Task.NEXT, random_scores(questions * 100, seed=0), ks=[3], resamples=2)
    assert many.metrics["hit_rate@3"].mean == pytest.approx(1 / 3, abs=0.03)


def test_popularity_counts_and_draws_the_order_of_equals():
    counts = np.array([5, 0, 2, 2])
    example = Example("u", (), (2,), (3, 0, 2, 1))
    orders = [popularity_scores([example], counts, seed=seed)[0].scores for seed in range(200)]
    assert all(np.floor(scores).tolist() == [2, 5, 2, 0] for scores in orders)
    assert 60 < sum(scores[0] > scores[2] for scores in orders) < 140
    (yes,) = popularity_scores([Example("u", (), (2,), label=True)], counts)
    assert yes.scores.tolist() == [2.0]
    with pytest.raises(InputError, match="counts of 3 items"):
        popularity_scores([example], counts[:3])
