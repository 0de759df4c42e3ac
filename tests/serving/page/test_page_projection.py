"""The map's points: against another computation, and in the corners."""

from dataclasses import replace

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.serving.page import layout, projection
from prismrec.serving.page.layout import EDGE, beside, by_neighbours, project
from prismrec.serving.page.projection import MODALITY, Map, Points, group
from prismrec.serving.types import Item


def test_places_are_those_of_a_singular_value_decomposition():
    vectors = np.random.default_rng(3).normal(size=(40, 7)) * np.array([5, 3, 1, 1, 0.5, 0.2, 0.1]) + 9
    same_as_all_directions(vectors)


def test_the_first_directions_of_wide_vectors_are_those_of_all(monkeypatch):
    monkeypatch.setattr(layout, "_WIDE", 30)
    random = np.random.default_rng(4)
    vectors = random.normal(size=(60, 40)) * np.array([5, 3, *np.linspace(1, 0.1, 38)]) + 9
    same_as_all_directions(vectors)
    once, again = (project(vectors.astype(np.float32)) for _ in range(2))
    assert (once[0] == again[0]).all()
    assert once[1] == again[1]


def same_as_all_directions(vectors):
    places, kept = project(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * lengths[:2]
    scale = EDGE / np.ptp(expected, axis=0).max()
    for axis in (0, 1):
        own = places[:, axis] - places[:, axis].mean()
        theirs = (expected[:, axis] - expected[:, axis].mean()) * scale
        assert np.minimum(np.abs(own - theirs).max(), np.abs(own + theirs).max()) < 2
    assert kept == pytest.approx((lengths[:2] ** 2).sum() / (lengths**2).sum())
    assert (places.min(), places.max()) == (0, EDGE)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (3, 1), (5, 300)])
def test_few_items_and_few_dimensions_have_places(shape):
    places, kept = project(np.random.default_rng(0).normal(size=shape))
    assert places.shape == (shape[0], 2)
    assert ((places >= 0) & (places <= EDGE)).all()
    assert 0 < kept <= 1


def test_items_that_are_all_alike_stand_in_the_middle():
    places, kept = project(np.ones((4, 3)))
    assert (places == EDGE // 2).all()
    assert kept == 1


def planted(clusters=6, each=50, size=2000, alike=0.15, seed=0):
    """Unit vectors: within a cluster their cosines are about `alike`, between clusters about none."""
    random = np.random.default_rng(seed)
    of = np.repeat(np.arange(clusters), each)
    centres, own = (random.normal(size=(n, size)) / np.sqrt(size) for n in (clusters, len(of)))
    return np.sqrt(alike) * centres[of] + np.sqrt(1 - alike) * own, of


def share_of_own_cluster(places, of, k=5):
    far = ((places[:, None] - places[None]) ** 2).sum(axis=2).astype(float)
    np.fill_diagonal(far, np.inf)
    return (of[far.argsort(axis=1)[:, :k]] == of[:, None]).mean()


def test_items_that_no_two_axes_show_are_drawn_by_their_neighbours(monkeypatch):
    vectors, of = planted(clusters=12, each=60, alike=0.1)
    # Two pairs of long vectors take both axes, as with a kernel, and the clusters are one spot.
    long = np.zeros((4, vectors.shape[1]))
    long[[0, 1, 2, 3], [0, 0, 1, 1]] = 3
    vectors, of = np.vstack([vectors, long]), np.append(of, [12, 12, 13, 13])
    monkeypatch.setattr(layout, "_LITTLE", 0.0)
    by_variance, shown = project(vectors)
    monkeypatch.setattr(layout, "_LITTLE", shown + 0.001)
    places, kept = project(vectors)
    assert kept is None
    assert shown is not None
    # By chance a twelfth.
    assert share_of_own_cluster(by_variance, of) < 0.2
    assert share_of_own_cluster(places, of) > 0.7
    assert (places.min(axis=0), places.max(axis=0)) == (pytest.approx([0, 0]), pytest.approx([EDGE, EDGE]))


def test_neighbours_give_the_same_places_again():
    vectors, _ = planted()
    once = by_neighbours(vectors.astype(np.float32))
    assert (once == by_neighbours(vectors.astype(np.float32))).all()
    # Lengths do not matter: alike is by the angle.
    lengths = np.random.default_rng(1).choice([0.5, 2.0, 4.0], size=len(vectors))[:, None]
    assert (once == by_neighbours((vectors.astype(np.float32) * lengths).astype(np.float32))).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_few_items_have_no_drawing_by_neighbours(n):
    assert by_neighbours(np.ones((n, 5))) is None


def test_what_is_like_nothing_has_no_drawing_by_neighbours():
    assert by_neighbours(np.eye(30)) is None
    assert by_neighbours(np.zeros((30, 4))) is None
    assert project(np.eye(300))[1] == pytest.approx(2 / 299)


def test_parts_that_nothing_ties_together_stand_apart():
    vectors, of = planted(clusters=3, each=20, size=60)
    apart = np.zeros((len(of), 3 * 60))
    for row, cluster in enumerate(of):
        apart[row, 60 * cluster : 60 * cluster + 60] = np.abs(vectors[row])
    # Where two regions meet, neighbours may be of either; by chance it is a third.
    assert share_of_own_cluster(by_neighbours(apart), of) > 0.95


def test_a_few_items_apart_do_not_take_the_axes():
    # So little alike that there are ties between the two clusters.
    vectors, of = planted(clusters=2, each=100, alike=0.05)
    # Five items that are tied to one another alone; without regularisation they would be an axis.
    wide = np.zeros((len(vectors) + 5, vectors.shape[1] + 3))
    wide[:-5, :-3] = vectors
    wide[-5:, -3:] = np.random.default_rng(2).uniform(0.5, 1, size=(5, 3))
    axes = layout._axes(*ties_of(wide), len(wide))
    first = axes[:-5, 0]
    assert max(np.mean((first > 0) == (of == 0)), np.mean((first < 0) == (of == 0))) > 0.95


def ties_of(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    found = np.argsort(-cosine, axis=1)[:, : layout.NEIGHBOURS]
    tied = np.take_along_axis(cosine, found, axis=1) > 0
    return np.repeat(np.arange(len(unit)), tied.sum(axis=1)), found[tied].astype(np.int32)


def test_axes_are_those_of_the_whole_matrix():
    vectors, _ = planted(clusters=3, each=15, size=40, alike=0.5)
    rows, columns = ties_of(vectors)
    n = len(vectors)
    ties = np.zeros((n, n))
    ties[rows, columns] = 1
    ties = np.maximum(ties, ties.T)
    mean = ties.sum() / n
    root = np.sqrt(ties.sum(axis=1) + mean)
    _, all_axes = np.linalg.eigh((ties + mean / n) / root[:, None] / root)
    found = layout._axes(rows, columns, n)
    for axis, expected in enumerate((all_axes[:, -2] / root, all_axes[:, -3] / root)):
        assert np.abs(found[:, axis]) == pytest.approx(np.abs(expected), abs=1e-8)
        assert found[np.abs(found[:, axis]).argmax(), axis] > 0


def test_equal_vectors_and_zeros_have_whole_places():
    for vectors in (np.ones((40, 5)), np.repeat(np.eye(4), 20, axis=0), np.eye(4)[[0, 0, 0, 0, 1, 2, 3]]):
        with_zeros = np.vstack([vectors, np.zeros((2, vectors.shape[1]))])
        for given in (vectors, with_zeros):
            places = by_neighbours(given)
            assert places.dtype == np.int64
            assert ((places >= 0) & (places <= EDGE)).all()
    # Of four groups of equal vectors each is one region: nobody's nearest is of another.
    groups = np.repeat(np.arange(4), 20)
    assert share_of_own_cluster(by_neighbours(np.repeat(np.eye(4), 20, axis=0)), groups) > 0.9


def test_beside_is_the_mean_of_the_most_alike():
    others = np.eye(3)
    places = np.array([[0, 0], [100, 0], [0, 1000]])
    vectors = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 7.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    middle = [33, 333]
    assert beside(vectors, others, places).tolist() == [[50, 0], [0, 1000], middle, middle]


@pytest.fixture
def by_their_neighbours(service):
    """A catalogue of clusters that two axes do not show; returns the clusters by id."""
    vectors, of = planted(clusters=8, each=50, size=3000, alike=0.1)
    item = next(iter(service.items.values()))
    for name in list(service.item_vectors):
        del service.items[name], service.item_vectors[name]
    for row in range(len(of)):
        service.items[f"c{row}"] = replace(item, item_id=f"c{row}")
        service.item_vectors[f"c{row}"] = vectors[row]
    return {f"c{row}": int(cluster) for row, cluster in enumerate(of)}


def test_newcomers_stand_beside_what_they_are_like_until_they_are_many(
    service, by_their_neighbours, monkeypatch
):
    monkeypatch.setattr(layout, "_LITTLE", 0.05)
    drawings = []
    monkeypatch.setattr(projection, "project", lambda given: drawings.append(len(given)) or project(given))
    now = [0.0]
    drawn = Map(service, service, clock=lambda: now[0])
    first = drawn.points()
    before = {item.item_id: place.tolist() for item, place in zip(first.items, first.places, strict=True)}
    assert (first.kept, first.placed, drawings) == (None, 0, [400])

    item = first.items[0]
    service.items["new"] = replace(item, item_id="new")
    service.item_vectors["new"] = np.asarray(service.item_vectors["c3"]) * 2
    # One is deleted, one gets the content of another cluster.
    del service.items["c1"], service.item_vectors["c1"]
    service.item_vectors["c0"] = np.asarray(service.item_vectors["c399"]) * 3
    now[0] = 31.0
    second = drawn.points()
    after = {item.item_id: place.tolist() for item, place in zip(second.items, second.places, strict=True)}
    assert (second.kept, second.placed, drawings) == (None, 2, [400])
    assert set(after) == set(before) - {"c1"} | {"new"}
    assert {name for name in before if name in after and before[name] != after[name]} == {"c0"}
    rows = {item.item_id: row for row, item in enumerate(second.items)}
    for name, like in (("new", "c3"), ("c0", "c399")):
        cluster = [
            rows[other] for other in after if by_their_neighbours.get(other) == by_their_neighbours[like]
        ]
        low, high = second.places[cluster].min(axis=0), second.places[cluster].max(axis=0)
        assert ((low <= after[name]) & (after[name] <= high)).all()

    for n in range(30):
        service.items[f"many{n}"] = replace(item, item_id=f"many{n}")
        service.item_vectors[f"many{n}"] = np.asarray(service.item_vectors[f"c{n + 5}"]) * 2
    third = drawn.points()
    assert (third.placed, drawings) == (0, [400, 430])
    service.items.clear()
    assert len(drawn.points().items) == 0


def test_another_models_vectors_are_drawn_anew(service, by_their_neighbours, monkeypatch):
    monkeypatch.setattr(layout, "_LITTLE", 0.05)
    drawings = []
    monkeypatch.setattr(projection, "project", lambda given: drawings.append(len(given)) or project(given))
    drawn = Map(service, service)
    health = service.health()
    drawn.points()
    monkeypatch.setattr(service, "health", lambda: replace(health, version="another"))
    drawn.points()
    assert len(drawings) == 2


def points(values: list[object], dominant: tuple[str, ...] = ()) -> Points:
    items = tuple(Item(str(n), str(n), {"kind": value}, False, False, True) for n, value in enumerate(values))
    places = np.zeros((len(values), 2), dtype=np.int64)
    return Points(items, places, np.arange(len(values)), dominant, (), 1.0, 0, len(values))


def test_groups_are_the_largest_first_and_what_is_not_known_last():
    found = group(points(["b", "a", "b", None, ["c", "d"], [], True]), "kind")
    assert found.names == ("b", "True", "a", "c", "not known")
    assert found.counts == (2, 1, 1, 1, 2)
    assert found.of_point == (0, 2, 0, 4, 3, 4, 1)


def test_lists_by_which_items_fall_into_groups_are_found(service):
    for place, (name, item) in enumerate(service.items.items()):
        attributes = {
            "genres": [["Comedy", "Drama"], ["Drama"], [], None][place % 4],
            "tags": [f"tag {place}"],
            "root": ["all", str(place % 2)],
            "sizes": [place % 3],
            "colour": ("red", "blue")[place % 2],
        }
        service.items[name] = replace(item, attributes=attributes)
    drawn = Map(service, service).points()
    # Too many kinds, one kind, numbers and what is no list are not offered.
    assert drawn.lists == ("genres",)
    found = group(drawn, "genres")
    firsts = [(item.attributes["genres"] or ["not known"])[0] for item in drawn.items]
    assert [found.names[place] for place in found.of_point] == firsts
    assert set(firsts) == {"Comedy", "Drama", "not known"}


def test_what_is_over_becomes_other():
    found = group(points([str(n % 12) for n in range(30)]), "kind")
    assert len(found.names) == 9
    assert found.names[-1] == "other"
    assert sum(found.counts) == 30


def test_nine_groups_are_all_named():
    assert "other" not in group(points([str(n % 9) for n in range(30)]), "kind").names


def test_the_modality_that_counts_most(service):
    drawn = Map(service, service).points()
    names, weights = service.weights()
    expected = [names[int(np.nanargmax(row))] for row in weights]
    assert list(drawn.dominant) == expected
    assert group(drawn, MODALITY).counts == tuple(sorted(map(expected.count, set(expected)), reverse=True))


def test_nearest_is_the_nearest_on_the_map(service):
    drawn = Map(service, service).points()
    far = ((drawn.places[:, None] - drawn.places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(far, far.max() + 1)
    rows = np.arange(len(far))
    assert (far[rows, drawn.nearest] == far.min(axis=1)).all()


def test_the_map_is_drawn_anew_when_the_catalogue_changes_or_time_has_passed(service):
    now, asked = [0.0], []
    given = service.vectors
    service.vectors = lambda: asked.append(1) or given()
    drawn = Map(service, service, clock=lambda: now[0])
    first = drawn.points()
    assert drawn.points() is first
    name = next(iter(service.items))
    service.delete([name])
    assert name not in {item.item_id for item in drawn.points().items}
    now[0] = 31.0
    assert drawn.points() is not first
    assert len(asked) == 3


def test_a_deleted_item_whose_vector_is_still_there_is_left_out(service):
    name = next(iter(service.items))
    del service.items[name]
    drawn = Map(service, service).points()
    assert len(drawn.items) == len(drawn.places) == len(service.item_vectors) - 1


def test_too_many_items_are_drawn_as_an_even_sample(service, monkeypatch):
    monkeypatch.setattr(projection, "MOST_POINTS", 20)
    drawn = Map(service, service).points()
    assert (len(drawn.items), drawn.of) == (20, len(service.item_vectors))
    assert len(drawn.dominant) == 20
    again = Map(service, service).points()
    names = [i.item_id for i in again.items]
    assert names == [i.item_id for i in drawn.items]
    # When an item goes, another one comes for it, and all the others stay.
    service.delete([names[7]])
    fewer = {i.item_id for i in Map(service, service).points().items}
    assert (len(fewer), len(fewer - set(names))) == (20, 1)


def test_rows_that_do_not_fit_are_refused(service):
    names, vectors = service.vectors()
    service.vectors = lambda: (names[:-1], vectors)
    with pytest.raises(InputError, match="one row for each id"):
        Map(service, service).points()
    service.vectors = lambda: (names, vectors)
    service.weights = lambda: (("image",), np.ones((3, 1)))
    with pytest.raises(InputError, match="one column"):
        Map(service, service).points()


def test_an_item_is_kept_as_it_is(service):
    name = next(iter(service.items))
    service.items[name] = replace(service.items[name], title="Another")
    assert Map(service, service).points().items[0].title == "Another"
