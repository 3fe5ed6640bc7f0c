"""Work done in threads ahead of its use, in order, a bounded distance ahead."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def ahead(items: Iterable[T], *, distance: int = 4) -> Iterator[T]:
    """The same items, made in one thread up to `distance` ahead of their use; an error comes in its item's place."""
    source = iter(items)
    made = map_ahead(lambda _: next(source, _END), itertools.count(), distance=distance, threads=1)
    return itertools.takewhile(lambda item: item is not _END, made)


def map_ahead(
    function: Callable[[Any], T], items: Iterable[Any], *, distance: int = 64, threads: int | None = None
) -> Iterator[T]:
    """`map(function, items)` in a pool of threads (default: some more than there are cores)."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > distance:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
