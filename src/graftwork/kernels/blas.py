"""Linear algebra on one thread: the executor's threads work on tensors of their own, and sums have one order on every machine.

NumPy's BLAS would use all cores for each product. Several products at once then wait for each other (eight times slower, measured with two
threads on two cores), and the number of cores would decide the last bits of results.
"""

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have BLAS work on the calling thread alone inside; what was set before comes back.

    Some libraries keep one setting for the process, which the outermost thread that asks decides on; some one for each thread. So whoever
    hands work to threads asks for it, and so does whoever works.
    """
    with importlib.import_module("threadpoolctl").threadpool_limits(limits=1, user_api="blas"):
        yield
