"""The metrics of several processes as one: each metric by its rule, and no counter that falls."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from frostline_server.metrics import families
from frostline_server.metrics.exchange import PROCESS, Across, dump, load, rule
from frostline_server.metrics.host import CpuClock, host_families
from frostline_server.processes.totals import Totals


class Process:
    """A process with one metric of each kind."""

    def __init__(self, **gauges: float) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests.", ["code"], registry=self.registry)
        self.rows = Counter("rows", "Rows.", ["model", "version"], registry=self.registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(1, 2), registry=self.registry)
        for name, value in gauges.items():
            Gauge(name, "A gauge.", registry=self.registry).set(value)

    def load(self, version: str, rows: int = 0) -> None:
        """Have the counter of a version begin again."""
        self.unload(version)
        self.rows.labels("m", version).inc(rows)

    def unload(self, version: str) -> None:
        """Have a version gone."""
        if ("m", version) in self.rows._metrics:
            self.rows.remove("m", version)

    def page(self) -> bytes:
        return dump(self.registry, RULES)


RULES: dict[str, Across] = {"least": "min", "most": "max", "waiting": "sum", "ready": "supervisor"}


class Stage:
    """Processes by name, and the page of all of them."""

    def __init__(self, **processes: Process) -> None:
        self.pages: dict[str, bytes | None] = {}
        self.totals = Totals(lambda: self.pages)
        for name, process in processes.items():
            self.totals.begin(name)
            self.pages[name] = process.page()

    def shown(self) -> dict[str, float]:
        """What a scrape shows; labels as in the text."""
        registry = CollectorRegistry()
        registry.register(self.totals)
        lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def test_counters_and_histograms_are_added_up() -> None:
    one, other = Process(), Process()
    one.requests.labels("OK").inc(3)
    other.requests.labels("OK").inc(4)
    other.requests.labels("INTERNAL").inc()
    one.seconds.observe(0.5)
    other.seconds.observe(1.5)
    shown = Stage(a=one, b=other).shown()
    assert shown['requests_total{code="OK"}'] == 7
    assert shown['requests_total{code="INTERNAL"}'] == 1
    assert [shown[f'seconds_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "+Inf")] == [1, 2, 2]
    assert shown["seconds_sum"] == 2.0


def test_a_bucket_has_the_latest_exemplar_of_all_processes_also_of_one_that_has_ended() -> None:
    one, other = Process(), Process()
    one.seconds.observe(0.5, {"trace_id": "older"})
    other.seconds.observe(0.75, {"trace_id": "newer"})
    one.seconds.observe(1.5, {"trace_id": "only"})
    stage = Stage(b=other, a=one)
    for ended in (False, True):
        if ended:
            stage.shown()
            stage.totals.end("a")
            del stage.pages["a"]
        (metric,) = [metric for metric in stage.totals.collect() if metric.name == "seconds"]
        found = {sample.labels["le"]: sample.exemplar for sample in metric.samples if sample.exemplar}
        assert {bound: (each.labels["trace_id"], each.value) for bound, each in found.items()} == {
            "1.0": ("newer", 0.75),
            "2.0": ("only", 1.5),
        }


def test_each_gauge_has_its_rule() -> None:
    stage = Stage(
        a=Process(least=1, most=1, waiting=1, ready=1, other=1), b=Process(least=2, most=2, waiting=2, ready=0, other=2)
    )
    shown = stage.shown()
    assert {name: shown.get(name) for name in ("least", "most", "waiting", "ready", "other")} == {
        "least": 1, "most": 2, "waiting": 3, "ready": None, "other": 2,
    }  # fmt: skip


def test_what_a_process_counted_stays_when_it_ends_and_its_gauges_go() -> None:
    one, other = Process(waiting=5), Process(waiting=1)
    one.requests.labels("OK").inc(3)
    other.requests.labels("OK").inc(4)
    stage = Stage(a=one, b=other)
    stage.shown()
    stage.totals.end("a")
    del stage.pages["a"]
    assert stage.shown()['requests_total{code="OK"}'] == 7
    assert stage.shown()["waiting"] == 1
    # The one that takes its place begins at nothing.
    again = Process(waiting=0)
    again.requests.labels("OK").inc(1)
    stage.totals.begin("a2")
    stage.pages["a2"] = again.page()
    assert stage.shown()['requests_total{code="OK"}'] == 8


def of_version(shown: dict[str, float], version: str = "1") -> float | None:
    return shown.get(f'rows_total{{model="m",version="{version}"}}')


def increase(values: list[float | None]) -> float:
    """How far Prometheus takes a counter to have risen, which takes every fall for a beginning at 0."""
    rise, last = 0.0, values[0] or 0.0
    for value in (value or 0.0 for value in values[1:]):
        rise += value - last if value >= last else value
        last = value
    return rise


def test_a_version_that_processes_load_again_one_after_the_other_begins_once() -> None:
    one, other = Process(), Process()
    stage = Stage(a=one, b=other)
    seen = []

    def scrape() -> None:
        stage.pages.update(a=one.page(), b=other.page())
        seen.append(of_version(stage.shown()))

    one.load("1", 3)
    other.load("1", 4)
    scrape()
    one.load("1", 1)
    scrape()
    # The other one goes on with the old for a while.
    other.rows.labels("m", "1").inc(2)
    scrape()
    other.load("1", 5)
    scrape()
    one.rows.labels("m", "1").inc(1)
    scrape()
    assert seen == [7, 1, 3, 8, 9]
    assert increase(seen) == 9
    # Both at once.
    one.load("1", 1)
    other.load("1", 1)
    scrape()
    assert seen[-1] == 2


def test_what_an_ended_process_had_counted_of_a_version_goes_when_it_is_loaded_again() -> None:
    one, other = Process(), Process()
    one.load("1", 3)
    other.load("1", 4)
    other.load("2", 6)
    stage = Stage(a=one, b=other)
    stage.shown()
    stage.totals.end("b")
    del stage.pages["b"]
    assert of_version(stage.shown()) == 7
    one.load("1", 1)
    stage.pages["a"] = one.page()
    shown = stage.shown()
    assert of_version(shown) == 1
    assert of_version(shown, "2") == 6, "no other version has begun again"


def test_a_version_that_is_gone_from_all_processes_is_gone_from_the_page() -> None:
    one, other, third = Process(), Process(), Process()
    for process in (one, other, third):
        process.load("1", 3)
    stage = Stage(a=one, b=other, c=third)
    stage.shown()
    stage.totals.end("c")
    del stage.pages["c"]
    assert of_version(stage.shown()) == 9
    one.unload("1")
    other.rows.labels("m", "1").inc(2)
    stage.pages.update(a=one.page(), b=other.page())
    assert of_version(stage.shown()) == 2
    other.unload("1")
    stage.pages["b"] = other.page()
    assert of_version(stage.shown()) is None
    # As a shadow does that becomes one a second time.
    one.load("1")
    other.load("1", 1)
    stage.pages.update(a=one.page(), b=other.page())
    assert of_version(stage.shown()) == 1


def test_a_process_that_does_not_answer_counts_with_its_last_numbers() -> None:
    one, other = Process(), Process()
    one.requests.labels("OK").inc(3)
    other.requests.labels("OK").inc(4)
    stage = Stage(a=one, b=other)
    stage.shown()
    stage.pages["a"] = None
    assert stage.shown()['requests_total{code="OK"}'] == 7


def test_an_answer_that_comes_after_the_end_is_not_counted_twice() -> None:
    one = Process()
    one.requests.labels("OK").inc(3)
    stage = Stage(a=one)
    stage.shown()
    stage.totals.end("a")
    assert stage.shown()['requests_total{code="OK"}'] == 3


def test_types_and_help_texts_survive() -> None:
    registry = CollectorRegistry()
    process = Process(most=1)
    registry.register(Stage(a=process).totals)
    shown = {
        each.name: (each.type, each.documentation)
        for each in text_string_to_metric_families(generate_latest(registry).decode())
    }
    assert shown["requests"] == ("counter", "Requests.")
    assert shown["seconds"] == ("histogram", "Seconds.")
    assert shown["most"] == ("gauge", "A gauge.")


def test_what_is_written_is_what_is_read() -> None:
    process = Process(most=float("inf"))
    process.requests.labels('a "label"\n').inc()
    blocks = {block.name: block for block in load(process.page())}
    assert blocks["most"].samples == {("most", ()): float("inf")}
    assert blocks["requests"].samples["requests_total", (("code", 'a "label"\n'),)] == 1


def test_every_gauge_says_how_processes_are_put_together_and_whatever_counts_is_summed() -> None:
    tables = (
        families.SERVER, families.REQUESTS, families.VERSION, families.LOADED, families.SHADOW, families.TRITON,
        families.ERRORS,
    )  # fmt: skip
    every = [family for table in tables for family in table]
    assert {family.name for family in every if (family.type == "gauge") != (family.across is not None)} == set()
    assert {
        family.name
        for family in every
        if family.type != "gauge" and rule(family.name, family.type, families.RULES) != "total"
    } == set()


def test_gauges_of_the_machine_are_the_same_in_every_process() -> None:
    assert {rule(each.name, each.type, families.RULES) for each in host_families(CpuClock())} == {"max"}
    assert (
        rule("process_resident_memory_bytes", "gauge", families.RULES)
        == PROCESS["process_resident_memory_bytes"]
        == "sum"
    )


def test_of_the_last_looks_of_several_processes_the_oldest_is_shown() -> None:
    assert families.RULES["frostline_repository_last_look_timestamp_seconds"] == "min"
