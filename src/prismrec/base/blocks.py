"""Work on blocks of rows by several threads, each of which does a whole block by itself.

A block takes its thread through products and compiled loops without waiting for any other. Sharing each
product and each loop among the threads instead would have them wait for one another thousands of times a
second, which is slow as soon as anything else runs on the machine.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from prismrec.base.progress import Task


def in_blocks(n: int, height: int, work: Callable[[slice], None], task: Task) -> None:
    """Do some work for blocks of rows.

    Parameters
    ----------
    n
        Number of rows.
    height
        Most rows of a block; they are fewer where there would not be a block for each thread.
    work
        Is called with each block, in several threads if torch has several; must release the interpreter's
        lock to gain by it. Torch then multiplies in one thread.
    task
        Is advanced by the rows done.
    """
    import torch

    threads = torch.get_num_threads()
    # As many blocks as every thread can have an equal number of.
    rounds = -(-n // (threads * height))
    height = max(1, -(-n // (threads * max(1, rounds))))
    blocks = [slice(first, min(first + height, n)) for first in range(0, n, height)]
    if threads == 1 or len(blocks) <= 1:
        for block in blocks:
            work(block)
            task.advance(block.stop - block.start)
        return
    try:
        # Torch's number of threads belongs to the calling thread, but for the one that new threads take on.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            sizes = {pool.submit(work, block): block.stop - block.start for block in blocks}
            try:
                for done in as_completed(sizes):
                    done.result()
                    task.advance(sizes[done])
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        torch.set_num_threads(threads)
