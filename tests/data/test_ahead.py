import threading

import pytest

from chexseg_jax.data.ahead import ahead, map_ahead


def test_in_order_in_a_thread_and_no_further_than_asked():
    made, threads = [], set()

    def numbers():
        for i in range(20):
            made.append(i)
            threads.add(threading.get_ident())
            yield i

    items = ahead(numbers(), distance=3)
    assert not made
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(made) <= 5 + 3 + 1
    assert list(items) == list(range(5, 20))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_an_error_comes_in_its_items_place():
    def numbers():
        yield 1
        raise KeyError("second")

    items = ahead(numbers())
    assert next(items) == 1
    with pytest.raises(KeyError, match="second"):
        next(items)


@pytest.mark.parametrize("distance", [0, 1, 100])
def test_a_pool_maps_in_order(distance):
    assert list(map_ahead(lambda x: x * x, range(30), distance=distance)) == [x * x for x in range(30)]
