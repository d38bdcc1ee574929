"""How much of a client is read at a time, so that none holds up the others: some bytes mean much more work than others.

Clients whose reads are brief are read and answered first, and all of them may take `LONG_S` in a turn. Who is new, or
took longer the last time, shares `SLICE_S` with others of its kind. What came at once and takes more than `LONG_S` goes
on in the next turns. Where not all can have a turn, addresses take turns, so that one with many connections gets no
more than one with few.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

LONG_S = 0.001
"""How long a turn reads of clients whose reads are brief, and works on what came with one read."""
SLICE_S = LONG_S / 2
"""How long a turn goes on with each kind of what takes long: new connections, large answers, much that came."""
_MUCH_S = 0.0015
"""How long what is read at a time may take to work on, or less is read the next time."""
MOST_BYTES = 1 << 18
FIRST_BYTES = 1 << 12
_LEAST_BYTES = 1 << 10


class Address:
    """What the clients of one address take.

    Attributes:
        connections: how many they have.
        spent_s: how much of the front end's time they have taken of late.
    """

    __slots__ = ("connections", "spent_s")

    def __init__(self) -> None:
        self.connections = 0
        self.spent_s = 0.0


class Share:
    """What one client takes of the front end's time.

    Args:
        address: where it is.

    Attributes:
        address: where it is.
        appetite: bytes read of it in a turn.
        new: whether nothing was read of it yet.
        takes_long: whether the last read was not brief, or it is new, so that nobody knows.
        spent_s: how much time it has taken of late.
    """

    __slots__ = ("_size", "_work_s", "address", "appetite", "new", "spent_s", "takes_long")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.appetite = FIRST_BYTES
        self.new = self.takes_long = True
        self.spent_s = 0.0
        # Of the last read: its bytes, and how long they have taken.
        self._size = 0
        self._work_s = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """Who has less comes first."""
        return self.address.spent_s, self.spent_s

    def took(self, size: int, took_s: float, *, unfinished: bool = False) -> None:
        """So many bytes were read and worked on, in so much time; `unfinished` if there is more to do."""
        self.new = False
        self.spent_s += took_s
        self.address.spent_s += took_s
        self._size, self._work_s = size, took_s
        # Spelled out for the usual case.
        if took_s <= SLICE_S and size < self.appetite and not unfinished:
            self.takes_long = False
        else:
            self._judge(unfinished=unfinished)

    def went_on(self, took_s: float, *, unfinished: bool) -> None:
        """Work on what was read last has taken so much more time."""
        self.spent_s += took_s
        self.address.spent_s += took_s
        self._work_s += took_s
        self._judge(unfinished=unfinished)

    def _judge(self, *, unfinished: bool) -> None:
        self.takes_long = unfinished or self._work_s > SLICE_S
        if unfinished:
            return
        if self._work_s > _MUCH_S:
            self.appetite = max(_LEAST_BYTES, self.appetite // 4)
        elif self._size == self.appetite and self._work_s < _MUCH_S / 2:
            self.appetite = min(MOST_BYTES, 2 * self._size)


Where = TypeVar("Where", bound=Hashable)
Client = TypeVar("Client")


class Queues(Generic[Where, Client]):
    """Clients that wait: those of an address in the order in which they came, and one of each address in turn.

    Attributes:
        waiting: whether there are any.
    """

    __slots__ = ("_queues", "waiting")

    def __init__(self) -> None:
        self._queues: OrderedDict[Where, deque[Client]] = OrderedDict()
        self.waiting = False

    def add(self, address: Where, client: Client) -> None:
        """Have a client wait that does not yet."""
        queue = self._queues.get(address)
        if queue is None:
            queue = self._queues[address] = deque()
        queue.append(client)
        self.waiting = True

    def next(self) -> Client:
        """Take the client whose turn it is."""
        address, queue = self._queues.popitem(last=False)
        client = queue.popleft()
        if queue:
            self._queues[address] = queue
        else:
            self.waiting = bool(self._queues)
        return client
