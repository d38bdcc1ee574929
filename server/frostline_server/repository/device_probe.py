"""The liveness probe of devices: it runs a row that every served model has answered before, at intervals.

So the server detects a failed device even when no client sends requests.
"""

import threading
from collections.abc import Callable, Iterable

from frostline_server.errors import InvalidData, LoadError, RunFailed, RunStopped
from frostline_server.model.loaded_model import LoadedModel

_PATIENCE_S = 10.0
"""The least time that a row may take before its device counts as hanging."""


def probe(served: LoadedModel) -> str:
    """Why a model's device fails its probe, or "".

    The row is one that the network has answered before: of the golden sample, of `model_warmup`, or the latest of a
    request that was answered at once. Without one there is nothing to run. A failure that does not repeat at once does not
    count, nor does one that the data of the row causes, or the end of the process.
    """
    golden, row = (served.golden, served.probe_row) if served.probe_row is not None else (None, served.recent.row)
    served.recent.wanted = served.probe_row is None
    if row is None:
        return ""
    for session in served.sessions:
        fault = ""
        for _ in range(2):
            try:
                session.probe(row, golden)
            except (InvalidData, RunStopped):
                fault = ""
            except (LoadError, RunFailed) as error:
                fault = str(error)
                continue
            else:
                fault = ""
            break
        if fault:
            return fault
    return ""


def _probed(served: LoadedModel) -> str:
    try:
        return probe(served)
    except Exception as error:  # noqa: BLE001  whatever it is, operators should read it
        return f"the probe failed: {type(error).__name__}: {error}"


class DeviceProbe:
    """Probes each model in turn, in its own thread.

    Args:
        served: returns the models in service.
        on_change: called for each model whose `probe_fault` changed.
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
        """Start; the first round is one period from now."""
        self._thread.start()

    def close(self) -> None:
        """Stop; does not wait for a probe in progress."""
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.wait(self._period_s):
            self.look()

    def look(self) -> None:
        """Probe each model once."""
        self._hanging = {served: thread for served, thread in self._hanging.items() if thread.is_alive()}
        for served in self._served():
            fault = self._ask(served)
            if fault != served.probe_fault:
                served.probe_fault = fault
                self._on_change(served)

    def _ask(self, served: LoadedModel) -> str:
        if served in self._hanging:
            return served.probe_fault
        found: list[str] = []
        # In a separate thread: a run on a failed device may never return.
        thread = threading.Thread(target=lambda: found.append(_probed(served)), name="device-probe-run", daemon=True)
        thread.start()
        patience_s = max(self._period_s, _PATIENCE_S)
        thread.join(patience_s)
        if found:
            return found[0]
        self._hanging[served] = thread
        return f"the device has not answered for {patience_s:g} s"
