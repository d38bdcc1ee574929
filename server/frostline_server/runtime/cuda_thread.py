"""Thread confinement of CUDA work: each session has one thread, and a graph is captured while no other session runs.

Two properties of ONNX Runtime's CUDA provider require this. First, it keeps captured graphs and library handles for each
thread that ran the session: another thread cannot replay a graph, and each thread that ends leaves device memory behind.
Second, it captures in CUDA's global mode: while one thread captures, an allocation or a copy by any other thread of the
process fails and makes the capture fail.
"""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from frostline_server.errors import GraphsFailed

T = TypeVar("T")


class Captures:
    """Lets any number of runs go side by side, and a capture only alone; one for the whole process.

    Runs that come while a capture waits let it go first, or busy models would keep one that loads from ever capturing.

    Args:
        patience_s: how long a capture waits for the runs that are under way. One on a dead device may never end, and must
            not hold up those on others.
    """

    def __init__(self, patience_s: float = 30.0) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._running = 0
        self._capturing = False
        self._wanting = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around whatever may allocate or copy on a CUDA device."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._capturing or self._wanting))
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                if self._wanting:
                    self._changed.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Around a capture: waits for the runs that are under way, and holds up those that come.

        Raises:
            GraphsFailed: they did not end.
        """
        with self._changed:
            self._wanting += 1
            alone = self._changed.wait_for(lambda: not (self._capturing or self._running), self._patience_s)
            self._wanting -= 1
            if not alone:
                self._changed.notify_all()
                raise GraphsFailed(f"other runs on a GPU did not end within {self._patience_s:g} s")
            self._capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()


class _Call(Generic[T]):
    """A call on its way to the thread and back."""

    __slots__ = ("_done", "_error", "_result", "_work")

    _result: T

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._error: BaseException | None = None
        # A held lock is the cheapest thing to wait for.
        self._done = threading.Lock()
        self._done.acquire()

    def perform(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001  it is raised where it was called
            self._error = error
        finally:
            del self._work
            self._done.release()

    def result(self) -> T:
        self._done.acquire()
        if self._error is None:
            return self._result
        error, self._error = self._error, None
        try:
            raise error
        finally:
            # Its traceback would tie it, and the batch in its frames, into a cycle.
            del error


class CudaThread:
    """One thread that does what it is given, in order.

    It ends when its owner is gone, so that a session can be dropped like one without a thread.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call[object] | None] = queue.SimpleQueue()
        # The thread knows the queue only: it must not keep alive what it works for.
        self._thread = threading.Thread(target=_loop, args=(self._calls,), name=name, daemon=True)

    def start(self, owner: object) -> None:
        """Start the thread; it ends once `owner` is collected."""
        self._thread.start()
        # Not at exit: a thread that hangs in a dead device must not keep the process from ending.
        weakref.finalize(owner, self._calls.put, None).atexit = False

    def do(self, work: Callable[[], T]) -> T:
        """Let the thread do `work` after all earlier work, and return or raise what it returns or raises."""
        call = _Call(work)
        self._calls.put(call)  # type: ignore[arg-type]  # whoever waits for the result knows its type
        return call.result()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; tells whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _loop(calls: "queue.SimpleQueue[_Call[object] | None]") -> None:
    while _step(calls):
        pass


def _step(calls: "queue.SimpleQueue[_Call[object] | None]") -> bool:
    """Do one call; a frame of its own, so that an idle thread holds nothing."""
    call = calls.get()
    if call is None:
        return False
    call.perform()
    return True
