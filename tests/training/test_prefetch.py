import threading
from collections.abc import Iterator

import pytest

from prismrec.training.prefetch import ahead


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 20])
def test_everything_comes_once_and_in_order(count: int, length: int) -> None:
    assert list(ahead(range(length), count)) == list(range(length))


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_is_raised_where_the_thing_would_have_come(count: int) -> None:
    def things() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    found = ahead(things(), count)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(found)


def test_things_are_made_in_advance_but_not_without_bound() -> None:
    made, third = [], threading.Event()

    def things() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    found = ahead(things(), 2)
    assert next(found) == 0
    assert third.wait(10)
    # One handed over, two waiting, one in the thread's hands.
    assert made == [0, 1, 2, 3]
    found.close()


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()

    def endless() -> Iterator[int]:
        while True:
            yield 0

    found = ahead(endless(), 2)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before
