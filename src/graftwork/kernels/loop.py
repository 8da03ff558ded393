"""How a function over blocks becomes compiled code: at its first call, once per machine.

Numba takes a third of a second to import and as long again to compile a loop. So a `block_loop` imports it when it is first
called, and keeps the machine code on disk (in `__pycache__` beside the source, or the user's cache directory where that is not
writable). No fast-math flag is set: NaN, infinity and the order of additions mean what IEEE 754 says, on every machine.

Numba's own cache numbers its files, so that two processes which compile a loop for different types at the same time can
swap their machine code (both write "number 1"). Ours names a file after everything that went into it.
"""

import contextlib
import functools
import hashlib
import importlib
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from graftwork.lazy import np

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.RLock()

lean = False
"""Whether Numba may be imported without SciPy, which it wants for linear algebra in compiled code alone: 0.2 s and 25 MB that no
loop here needs. The command line says so for its own process; a user's process may compile what it likes."""


short_work = False
"""Whether there is so little to do that importing Numba would take longer than doing it with NumPy, where a loop knows how."""


class BlockLoop(Generic[P, R]):
    """A function that is compiled when it is first called; safe to call from any thread.

    It may call other block loops, and read numbers that are constants of its module.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._compiled: Any = None
        self._numpy: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the compiled function; arguments as the plain function's, by position."""
        if self._compiled is None and self._numpy is not None and short_work and "numba" not in sys.modules:
            return self._numpy(*args, **kwargs)
        result: R = (self._compiled or self.compiled())(*args, **kwargs)
        return result

    def in_numpy(self, function: Callable[P, R]) -> Callable[P, R]:
        """Take a function that does the same with NumPy, bit for bit, for work that is not worth importing Numba."""
        self._numpy = function
        return function

    def compiled(self) -> Any:
        """Return Numba's dispatcher for the function, made at the first call."""
        with _lock:
            if self._compiled is None:
                self._compiled = _compile(self._function)
            return self._compiled


def block_loop(function: Callable[P, R]) -> BlockLoop[P, R]:
    """Return `function` as one that is compiled at its first call, releases the interpreter's lock and is cached on disk."""
    return BlockLoop(function)


def _import_numba() -> Any:
    hide = lean and "numba" not in sys.modules and "scipy" not in sys.modules
    if hide:
        sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        numba = importlib.import_module("numba")
        if hide:
            # the module that asks for SciPy, else imported at the first compilation
            importlib.import_module("numba.np.arraymath")
        return numba
    finally:
        if hide:
            del sys.modules["scipy"]


def _compile(function: Any) -> Any:
    """Return the dispatcher of a function, in whose globals other block loops are replaced by theirs."""
    numba = _import_numba()
    code = function.__code__
    known = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    loops = {name: value.compiled() for name, value in known.items() if isinstance(value, BlockLoop)}
    plain = types.FunctionType(code, {**function.__globals__, **loops}, function.__name__)
    plain.__module__, plain.__qualname__ = function.__module__, function.__qualname__
    dispatcher = numba.njit(nogil=True, error_model="numpy")(plain)
    with contextlib.suppress(RuntimeError):  # no directory can be written: compile anew in every process
        constants = sorted(
            (name, repr(value)) for name, value in known.items() if isinstance(value, int | float | np.generic)
        )
        dispatcher._cache = _cache(plain, constants, [loop._cache for loop in loops.values()])
    return dispatcher


def _cache(function: types.FunctionType, constants: list[tuple[str, str]], callees: list[Any]) -> Any:
    """Return Numba's disk cache for a function, aware of what its code depends on and safe against other processes.

    Numba looks at the function's own file alone; here the functions it calls and the constants it reads count too.
    """
    caching: Any = importlib.import_module("numba.core.caching")

    class CacheFile(caching.IndexDataCacheFile):  # type: ignore[misc]
        """Names machine code after its key, where Numba counts up."""

        def save(self, key: Any, data: Any) -> None:
            """Keep `data`; an entry that another process adds meanwhile may be lost, never mistaken."""
            digest = hashlib.sha256(repr((key, self._source_stamp, self._version)).encode()).hexdigest()[:16]
            name = self._index_name.removesuffix(".nbi") + f".{digest}.nbc"
            self._save_data(name, data)
            self._save_index({**self._load_index(), key: name})

    cache = caching.FunctionCache(function)
    stamps = [callee._cache_file._source_stamp for callee in callees if hasattr(callee, "_cache_file")]
    cache._cache_file = CacheFile(
        cache_path=cache._cache_path,
        filename_base=cache._impl.filename_base,
        source_stamp=(cache._impl.locator.get_source_stamp(), *constants, *stamps),
    )
    return cache
