"""The journal of control calls: what a process that starts later has to be told to be as the others are.

It keeps of each subject (a model, the log, the trace settings of a model, a region of shared memory) only what still
holds, so it does not grow with the number of calls.
"""

from collections.abc import Iterator, Mapping

from frostline.pb import inference_pb2 as pb

Call = tuple[str, bytes]
"""A method of the protocol, and its request."""


class Journal:
    """The control calls that hold now."""

    def __init__(self) -> None:
        self._models: dict[str, Call] = {}
        self._log = pb.LogSettingsRequest()
        self._traces: dict[str, pb.TraceSettingRequest] = {}
        self._regions: dict[str, Call] = {}

    def record(self, method: str, request: bytes) -> None:
        """Keep a call that succeeded, in place of what it ended."""
        if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            name = pb.RepositoryModelLoadRequest.FromString(request).model_name
            # The latest last, as it was done.
            self._models.pop(name, None)
            self._models[name] = method, request
        elif method == "LogSettings":
            _update(self._log.settings, pb.LogSettingsRequest.FromString(request).settings)
        elif method == "TraceSetting":
            asked = pb.TraceSettingRequest.FromString(request)
            known = self._traces.setdefault(asked.model_name, pb.TraceSettingRequest(model_name=asked.model_name))
            _update(known.settings, asked.settings)
        elif method == "SystemSharedMemoryRegister":
            self._regions[pb.SystemSharedMemoryRegisterRequest.FromString(request).name] = method, request
        elif method == "SystemSharedMemoryUnregister":
            name = pb.SystemSharedMemoryUnregisterRequest.FromString(request).name
            for ended in [name] if name else list(self._regions):
                self._regions.pop(ended, None)

    def forget_log(self) -> None:
        """Drop the log settings: all processes have those of the start again."""
        self._log.Clear()

    def calls(self) -> Iterator[Call]:
        """The calls that make a new process like the others, in order."""
        if self._log.settings:
            yield "LogSettings", self._log.SerializeToString()
        yield from self._models.values()
        for request in self._traces.values():
            if request.settings:
                yield "TraceSetting", request.SerializeToString()
        yield from self._regions.values()


def _update(
    known: Mapping[str, "pb.LogSettingsRequest.SettingValue | pb.TraceSettingRequest.SettingValue"],
    new: Mapping[str, "pb.LogSettingsRequest.SettingValue | pb.TraceSettingRequest.SettingValue"],
) -> None:
    # A map of messages has no assignment.
    for name, value in new.items():
        known[name].CopyFrom(value)  # type: ignore[arg-type]  # both maps have the same type of value
