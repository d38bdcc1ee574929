"""The files of the deployment (those of Kubernetes apart) agree with each other, with the server's settings and with the tools that read them."""

import json
import re
import shlex
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from frostline.cli import settings
from frostline.cli.main import run as frostline
from frostline_server.access.access_file import Entries, parse
from frostline_server.config import ENVIRONMENT, ServerConfig
from frostline_server.model.stats import SECONDS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = ("rules.yml", "slo.yml")
RULE_TESTS = sorted(PROMETHEUS.glob("*_test.yml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
GUIDE = ROOT / "docs" / "operating.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
METRIC = re.compile(r"(?<![\w:])(?:frostline|nv|process|python)_\w+(?![\w:])")
RECORDED = re.compile(r"[a-z_]+:\w+:\w+")


@dataclass
class Stage:
    """One stage of a Dockerfile and its instructions, in order."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(base)
        elif found:
            found[list(found)[-1]].steps.append((instruction, rest.strip()))
    return found


def lineage(name: str) -> list[Stage]:
    """The stage and those it was made from, last first."""
    known = stages()
    line = [known[name]]
    while line[-1].base in known:
        line.append(known[line[-1].base])
    return line


def last(name: str, instruction: str) -> str:
    return next(text for stage in lineage(name) for text in reversed(stage.all(instruction)))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def compose() -> dict[str, Any]:
    return dict(load(ROOT / "docker-compose.yml"))


def expanded(text: str) -> str:
    """What compose makes of a value when none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return list(json.loads(dashboard.read_text())["panels"])


def expressions(dashboard: Path) -> list[str]:
    return [target["expr"] for panel in panels(dashboard) for target in panel.get("targets", ())]


def rules(kind: str) -> list[dict[str, Any]]:
    groups = [group for name in RULES for group in load(PROMETHEUS / name)["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def names(kind: str) -> set[str]:
    return {rule[kind] for rule in rules(kind)}


def rule_tests(kind: str) -> list[dict[str, Any]]:
    """The cases of promtool's unit tests."""
    return [case for file in RULE_TESTS for test in load(file)["tests"] for case in test.get(kind, ())]


def documented(section: str) -> dict[str, str]:
    """The rows of the guide's tables under one heading: what the first cell names, and the second cell."""
    text = GUIDE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`{]+)[^|]* \| ([^|]*?) \|", text, flags=re.MULTILINE))


def known_metric(name: str, known: dict[str, str]) -> bool:
    return name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known


def check_queries(queries: list[str], promtool: str, folder: Path) -> None:
    """Have Prometheus's own parser read queries."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = folder / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", file], check=True)


# The image.


def test_what_the_image_copies_exists_and_is_sent_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    copied = [
        source
        for stage in stages().values()
        for text in stage.all("COPY")
        if not text.startswith("--from=")
        for source in text.split()[:-1]
    ]
    assert "*" in lines
    assert copied
    assert [source for source in copied if not (ROOT / source).exists() or source.rstrip("/") not in sent] == []


def test_stages_are_copied_from_stages_that_come_before() -> None:
    names = list(stages())
    for position, stage in enumerate(stages().values()):
        froms = [text.split()[0].removeprefix("--from=") for text in stage.all("COPY") if text.startswith("--from=")]
        assert set(froms) <= set(names[:position])


def test_the_default_image_serves() -> None:
    assert list(stages())[-1] == "serve"


@pytest.mark.parametrize("target", ["serve", "train"])
def test_images_run_as_a_fixed_user_that_is_not_root(target: str) -> None:
    assert last(target, "USER") == "10001:10001"
    assert "--uid 10001 --gid 10001" in " ".join(last(target, "RUN").split())
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(last(target, "ENTRYPOINT")) == ["frostline"]


@pytest.mark.parametrize(("target", "extra"), [("serve", ""), ("train", "[train]")])
def test_images_are_installed_from_the_wheel_at_the_pinned_versions(target: str, extra: str) -> None:
    install = next(text for text in stages()[f"{target}-environment"].all("RUN") if " install " in text)
    assert "--constraint /constraints.txt" in install
    assert install.endswith(f'/wheels/*.whl){extra}"') or extra == ""
    assert "torch" not in install
    assert ("[train]" in install) == (target == "train")


def test_the_serving_image_refuses_to_be_built_with_torch() -> None:
    assert stages()["serve-environment"].all("ARG")[-1] == 'EXTRAS=""'
    assert "find_spec('torch')" in stages()["serve-environment"].all("RUN")[-1]


def test_images_keep_onnx_runtime_from_reporting_usage() -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in last("serve", "ENV").split()
    assert last("train", "ENV") == last("serve", "ENV")


def test_the_image_exposes_the_default_ports() -> None:
    fields = ServerConfig.model_fields
    assert last("serve", "EXPOSE").split() == [
        str(fields[name].default) for name in ("http_port", "port", "metrics_port")
    ]


@pytest.mark.parametrize("target", ["serve", "train"])
def test_the_command_line_takes_the_images_command(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frostline([*json.loads(last(target, "CMD")), "--help"]) == 0
    assert frostline([*json.loads(last(target, "CMD")), "--no-such-flag", "--help"]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("path", ["Dockerfile", "docker-compose.yml"])
def test_images_are_named_without_a_registry(path: str) -> None:
    names = re.findall(r"^(?:FROM| *image:) ([^\s]+)", (ROOT / path).read_text(), flags=re.MULTILINE)
    assert names
    assert [name for name in names if "." in name.rpartition("/")[0]] == []


@pytest.fixture
def health() -> Iterator[tuple[HTTPServer, list[int]]]:
    """A metrics port whose /readyz answers with the last status of the list."""
    statuses = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[-1] if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: the answers are the test's own."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def healthcheck(port: int) -> int:
    text = last("serve", "HEALTHCHECK")
    command = json.loads(text[text.index("CMD ") + 4 :])
    assert command[0] == "python"
    environment = {"FROSTLINE_METRICS_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, *command[1:]], env=environment, stderr=subprocess.DEVNULL, check=False
    ).returncode


def test_the_health_check_passes_exactly_when_the_server_is_ready(health: tuple[HTTPServer, list[int]]) -> None:
    server, statuses = health
    assert healthcheck(server.server_port) == 0
    statuses.append(503)
    assert healthcheck(server.server_port) == 1


def test_the_health_check_fails_where_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert healthcheck(unused.getsockname()[1]) == 1


# Compose.


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert sorted(ports) == [f"127.0.0.1:{port}:{port}" for port in (3000, 8000, 8001, 8002, 9090)]


def test_what_compose_mounts_exists_and_its_volumes_are_declared() -> None:
    file = compose()
    for service in file["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in file["volumes"]


def test_compose_builds_stages_that_exist() -> None:
    targets = {service["build"]["target"] for service in compose()["services"].values() if "build" in service}
    assert targets == {"serve", "train"}
    assert targets <= set(stages())


def test_training_writes_the_volume_that_the_server_only_reads() -> None:
    services = compose()["services"]
    assert services["server"]["volumes"] == ["models:/models:ro"]
    assert services["train"]["volumes"] == ["models:/models"]
    assert "user" not in services["server"] | services["train"]
    assert "--owner=10001 --group=10001 /models" in last("serve", "RUN")


def test_training_is_asked_for_by_profile_with_a_recipe_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    service = compose()["services"]["train"]
    command = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in service["command"]]
    assert service["profiles"] == ["train"]
    assert frostline([*command, "--help"]) == 0
    capsys.readouterr()
    assert frostline(["train", "--list"]) == 0
    assert command[1] in capsys.readouterr().out.split()


def test_containers_are_given_longer_to_stop_than_the_server_takes() -> None:
    grace_s = ServerConfig.model_fields["grace_s"].default
    assert int(compose()["services"]["server"]["stop_grace_period"].removesuffix("s")) > grace_s


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_the_server_knows_every_setting_that_compose_gives_it(name: str) -> None:
    environment = load(ROOT / name)["services"]["server"]["environment"]
    settings = {key.removeprefix(ENVIRONMENT).lower(): expanded(value) for key, value in environment.items()}
    assert ServerConfig(models=Path("models"), **settings).device == settings["device"]


def test_everyone_on_the_machine_may_predict_and_observe_and_control_needs_a_token() -> None:
    file = compose()
    environment = file["services"]["server"]["environment"]
    assert expanded(environment["FROSTLINE_ALLOW_ANONYMOUS"]) == "predict,observe"
    assert environment["FROSTLINE_ACCESS_FILE"] == f"/run/secrets/{file['services']['server']['secrets'][0]}"
    access = ROOT / expanded(file["secrets"]["access"]["file"])
    assert parse(access.read_text(), "access file", Entries()).tokens == ()


def test_the_gpu_file_overrides_the_server_with_an_extra_that_exists() -> None:
    server = load(ROOT / "docker-compose.gpu.yml")["services"]["server"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert server["build"]["args"]["EXTRAS"] in extras
    assert server["environment"]["FROSTLINE_DEVICE"] == "cuda"
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_prometheus_scrapes_the_server_and_grafana_reads_prometheus() -> None:
    services = compose()["services"]
    [scrape] = load(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    [target] = scrape["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in services
    assert int(port) == ServerConfig.model_fields["metrics_port"].default
    [source] = load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    assert source["jsonData"]["timeInterval"] == load(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]


def test_grafana_finds_the_dashboards_where_compose_mounts_them() -> None:
    grafana = compose()["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    [provider] = load(ROOT / "deploy/grafana/provisioning/dashboards/frostline.yml")["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"] == str(home.parent)
    assert home.name in {path.name for path in DASHBOARDS}


# Prometheus.


def test_prometheus_accepts_its_configuration(tool: Callable[[str], str]) -> None:
    subprocess.run([tool("promtool"), "check", "config", PROMETHEUS / "prometheus.yml"], check=True)


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_record_and_raise_what_they_should_and_only_then(file: Path, tool: Callable[[str], str]) -> None:
    subprocess.run([tool("promtool"), "test", "rules", file], check=True)


def test_prometheus_reads_every_file_of_rules() -> None:
    files = {path.name for path in PROMETHEUS.glob("*.yml")} - {path.name for path in RULE_TESTS}
    assert load(PROMETHEUS / "prometheus.yml")["rule_files"] == [*RULES]
    assert files == {"prometheus.yml", *RULES}
    mounts = compose()["services"]["prometheus"]["volumes"]
    assert {f"./deploy/prometheus/{name}:/etc/prometheus/{name}:ro" for name in files} <= set(mounts)


def test_every_alert_has_unit_tests_from_both_sides() -> None:
    sides = {(case["alertname"], bool(case["exp_alerts"])) for case in rule_tests("alert_rule_test")}
    assert sides == {(name, fires) for name in names("alert") for fires in (True, False)}


def test_every_recording_has_unit_tests_of_two_results() -> None:
    results: dict[str, set[str]] = {}
    for case in rule_tests("promql_expr_test"):
        for name in RECORDED.findall(case["expr"]):
            results.setdefault(name, set()).add(json.dumps(case["exp_samples"]))
    assert set(results) == names("record")
    assert [name for name, different in results.items() if len(different) < 2] == []


def test_every_alert_has_a_line_in_the_guide_and_a_section_in_the_runbook() -> None:
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in rules("alert")}
    assert documented("Alerts") == severities
    sections = re.findall(r"^### (Frostline\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    assert sorted(sections) == sorted(severities)
    # As GitHub makes anchors of headings.
    linked = {rule["alert"]: rule["annotations"]["runbook"] for rule in rules("alert")}
    assert linked == {name: f"docs/runbook.md#{name.lower()}" for name in sections}


def test_the_objectives_bound_is_one_of_a_bucket() -> None:
    [latency] = [rule for rule in rules("record") if rule["record"] == "slo:frostline_latency:objective"]
    assert latency["labels"]["le"] in {f"{bound:g}" for bound in SECONDS}


def test_rules_use_metrics_of_the_guide_and_series_that_are_recorded() -> None:
    known = documented("Metrics")
    used = [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)]
    assert [name for expr in used for name in METRIC.findall(expr) if not known_metric(name, known)] == []
    assert {name for expr in used for name in RECORDED.findall(expr)} <= names("record")


def test_queries_of_the_runbook_are_of_metrics_that_there_are_and_can_be_parsed(
    tool: Callable[[str], str], tmp_path: Path
) -> None:
    blocks = re.findall(r"^```promql\n(.*?)^```", RUNBOOK.read_text(), flags=re.MULTILINE | re.DOTALL)
    queries = [query for block in blocks for query in block.split("\n\n")]
    known = documented("Metrics")
    assert queries
    assert [name for query in queries for name in METRIC.findall(query) if not known_metric(name, known)] == []
    check_queries(queries, tool("promtool"), tmp_path)


# Grafana.


def test_dashboards_have_identities_of_their_own() -> None:
    loaded = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({dashboard["uid"] for dashboard in loaded}) == len({dashboard["title"] for dashboard in loaded}) == 3
    for dashboard in loaded:
        identities = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(identities)) == len(identities)
        assert all(panel["title"] for panel in dashboard["panels"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_side_by_side(dashboard: Path) -> None:
    boxes = [(panel["title"], panel["gridPos"]) for panel in panels(dashboard)]
    for title, box in boxes:
        assert box["x"] + box["w"] <= 24, title
    for (one, a), (other, b) in combinations(boxes, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, f"{one} overlaps {other}"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_query_only_metrics_of_the_guide_and_recordings(dashboard: Path) -> None:
    known = documented("Metrics")
    found = [[*METRIC.findall(expr), *RECORDED.findall(expr)] for expr in expressions(dashboard)]
    assert all(found)
    used = {name for each in found for name in each}
    assert {name for name in used if not known_metric(name, known)} <= names("record")


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_use_only_variables_and_references_that_exist(dashboard: Path) -> None:
    loaded = json.loads(dashboard.read_text())
    variables = {variable["name"] for variable in loaded["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", dashboard.read_text())) - {"__all"} <= variables
    for panel in loaded["panels"]:
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
        assert panel["type"] in {"row", "stat", "table", "timeseries", "heatmap"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_prometheus_can_parse_every_query(dashboard: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    queries = [expr.replace("$__rate_interval", "1m") for expr in expressions(dashboard)]
    check_queries(queries, tool("promtool"), tmp_path)


# The guide.


def test_the_guide_lists_every_setting_with_its_default() -> None:
    expected = {
        name: "required"
        if info.is_required()
        else "none"
        if info.default in (None, "")
        else f"`{info.default}`".replace("`True`", "`true`").replace("`False`", "`false`")
        for name, info in ServerConfig.model_fields.items()
    }
    assert documented("Settings") == expected


def test_the_guides_table_of_settings_is_what_make_settings_writes() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert settings.with_table(text) == text


def test_sections_that_settings_refer_to_are_in_the_guide() -> None:
    headings = re.findall(r"^#+ (.+)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {each.see for each in settings.settings()} - {"", *headings} == set()


@pytest.mark.parametrize("page", [GUIDE, RUNBOOK], ids=lambda path: path.stem)
def test_commands_of_the_guide_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    joined = [block.replace("\\\n", " ") for block in blocks]
    lines = [line[2:] for block in joined for line in block.splitlines() if line.startswith("$ frostline ")]
    assert lines
    for line in lines:
        assert frostline([*shlex.split(line)[1:], "--help"]) == 0, line
    capsys.readouterr()


@pytest.mark.parametrize("page", [GUIDE, RUNBOOK], ids=lambda path: path.stem)
def test_the_guide_links_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
