"""The liveness probe of devices: it runs every served model's golden row at intervals.

A device that has failed is found this way before a client meets it.
"""

import threading
from collections.abc import Callable, Iterable

from frostline_server.errors import LoadError, RunFailed
from frostline_server.model.loaded_model import LoadedModel

_PATIENCE_S = 10.0
"""How long one row may take at least before its device counts as hanging."""


def probe(served: LoadedModel) -> str:
    """Why a model's device does not answer as it should, or "".

    A fault that is gone when asked again at once is not one.
    """
    for session in served.sessions:
        try:
            session.probe(served.golden)
        except (LoadError, RunFailed):
            try:
                session.probe(served.golden)
            except (LoadError, RunFailed) as error:
                return str(error)
    return ""


class DeviceProbe:
    """Probes in a thread of its own, each model in turn.

    Args:
        served: what is served now.
        on_change: told of each whose `fault` came or went.
        period_s: seconds between two rounds.
    """

    def __init__(
        self, served: Callable[[], Iterable[LoadedModel]], on_change: Callable[[LoadedModel], None], period_s: float
    ) -> None:
        self._served = served
        self._on_change = on_change
        self._period_s = period_s
        self._stop = threading.Event()
        self._hanging: dict[LoadedModel, threading.Thread] = {}
        self._thread = threading.Thread(target=self._loop, name="device-probe", daemon=True)

    def start(self) -> None:
        """Begin; the first round is one period from now."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a probe under way is not waited for."""
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.wait(self._period_s):
            self.look()

    def look(self) -> None:
        """One round."""
        self._hanging = {served: thread for served, thread in self._hanging.items() if thread.is_alive()}
        for served in self._served():
            fault = self._ask(served)
            if fault != served.fault:
                served.fault = fault
                self._on_change(served)

    def _ask(self, served: LoadedModel) -> str:
        if served in self._hanging:
            return served.fault
        found: list[str] = []
        # In a thread of its own: a run on a dead device may never return.
        thread = threading.Thread(target=lambda: found.append(probe(served)), name="device-probe-run", daemon=True)
        thread.start()
        patience_s = max(self._period_s, _PATIENCE_S)
        thread.join(patience_s)
        if found:
            return found[0]
        self._hanging[served] = thread
        return f"the device has not answered for {patience_s:g} s"
