from prismrec.models.layers.search import best_of


def test_best_is_left_applied() -> None:
    seen: list[int] = []
    assert best_of([1, 5, 3], seen.append, lambda: float(seen[-1])) == 5
    assert seen == [1, 5, 3, 5]


def test_single_value_is_not_scored() -> None:
    seen: list[int] = []
    assert best_of([4], seen.append, lambda: 1 / 0) == 4
    assert seen == [4]


def test_ties_and_nan_keep_the_first() -> None:
    assert best_of([1, 2, 3], lambda value: None, lambda: 0.5) == 1
    assert best_of([1, 2, 3], lambda value: None, lambda: float("nan")) == 1
