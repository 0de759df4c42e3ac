"""The map's points: against another computation, and in the corners."""

from dataclasses import replace

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.serving.page import projection
from prismrec.serving.page.projection import EDGE, MODALITY, Map, Points, group, project
from prismrec.serving.types import Item


def test_places_are_those_of_a_singular_value_decomposition():
    vectors = np.random.default_rng(3).normal(size=(40, 7)) * np.array([5, 3, 1, 1, 0.5, 0.2, 0.1]) + 9
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


def points(values: list[object], dominant: tuple[str, ...] = ()) -> Points:
    items = tuple(Item(str(n), str(n), {"kind": value}, False, False, True) for n, value in enumerate(values))
    places = np.zeros((len(values), 2), dtype=np.int64)
    return Points(items, places, np.arange(len(values)), dominant, 1.0, len(values))


def test_groups_are_the_largest_first_and_what_is_not_known_last():
    found = group(points(["b", "a", "b", None, ["c", "d"], [], True]), "kind")
    assert found.names == ("b", "True", "a", "c", "not known")
    assert found.counts == (2, 1, 1, 1, 2)
    assert found.of_point == (0, 2, 0, 4, 3, 4, 1)


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
    assert [i.item_id for i in again.items] == [i.item_id for i in drawn.items]


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
