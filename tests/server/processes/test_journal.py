"""What a process that starts later is told: what still holds, and nothing else."""

from typing import Any

from frostline.pb import inference_pb2 as pb
from frostline_server.processes.journal import Journal


def record(journal: Journal, method: str, request: Any) -> None:
    journal.record(method, request.SerializeToString())


Log = pb.LogSettingsRequest.SettingValue
Trace = pb.TraceSettingRequest.SettingValue


def load(name: str) -> pb.RepositoryModelLoadRequest:
    return pb.RepositoryModelLoadRequest(model_name=name)


def methods(journal: Journal) -> list[str]:
    return [method for method, _ in journal.calls()]


def test_of_a_model_only_the_last_call_holds() -> None:
    journal = Journal()
    for name in ("a", "b", "a"):
        record(journal, "RepositoryModelLoad", load(name))
    record(journal, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="b"))
    calls = list(journal.calls())
    assert [method for method, _ in calls] == ["RepositoryModelLoad", "RepositoryModelUnload"]
    assert pb.RepositoryModelLoadRequest.FromString(calls[0][1]) == load("a")


def test_a_load_is_repeated_with_its_configuration() -> None:
    journal = Journal()
    request = load("a")
    request.parameters["config"].string_param = "{}"
    record(journal, "RepositoryModelLoad", request)
    ((_, repeated),) = journal.calls()
    assert pb.RepositoryModelLoadRequest.FromString(repeated) == request


def test_log_settings_are_one_call_with_the_last_values() -> None:
    journal = Journal()
    record(journal, "LogSettings", pb.LogSettingsRequest(settings={"log_info": Log(bool_param=False)}))
    record(journal, "LogSettings", pb.LogSettingsRequest(settings={"log_verbose_level": Log(uint32_param=1)}))
    record(journal, "LogSettings", pb.LogSettingsRequest(settings={"log_info": Log(bool_param=True)}))
    ((method, request),) = journal.calls()
    assert method == "LogSettings"
    settings = pb.LogSettingsRequest.FromString(request).settings
    assert settings["log_info"].bool_param
    assert settings["log_verbose_level"].uint32_param == 1


def test_trace_settings_are_kept_by_model() -> None:
    journal = Journal()
    record(journal, "TraceSetting", pb.TraceSettingRequest(settings={"trace_rate": Trace(value=["7"])}))
    record(journal, "TraceSetting", pb.TraceSettingRequest(model_name="a", settings={"trace_rate": Trace(value=["9"])}))
    kept = [pb.TraceSettingRequest.FromString(request) for _, request in journal.calls()]
    assert [(each.model_name, list(each.settings["trace_rate"].value)) for each in kept] == [("", ["7"]), ("a", ["9"])]


def test_questions_about_settings_are_not_kept() -> None:
    journal = Journal()
    record(journal, "LogSettings", pb.LogSettingsRequest())
    record(journal, "TraceSetting", pb.TraceSettingRequest(model_name="a"))
    assert methods(journal) == []


def test_regions_are_kept_until_they_are_unregistered() -> None:
    journal = Journal()
    for name in ("a", "b", "c"):
        record(journal, "SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name=name, key="k"))
    record(journal, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="b"))
    kept = [pb.SystemSharedMemoryRegisterRequest.FromString(request).name for _, request in journal.calls()]
    assert kept == ["a", "c"]
    record(journal, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest())
    assert methods(journal) == []


def test_log_settings_can_be_forgotten_and_nothing_else_with_them() -> None:
    journal = Journal()
    record(journal, "LogSettings", pb.LogSettingsRequest(settings={"log_info": Log(bool_param=False)}))
    record(journal, "RepositoryModelLoad", load("a"))
    journal.forget_log()
    assert methods(journal) == ["RepositoryModelLoad"]
