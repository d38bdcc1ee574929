"""A rollout in a real folder: which version answers while it changes, and what a shadow finds, in the repository and through both front ends."""

import itertools
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

import frostline
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc, model_config_pb2
from frostline.protocol import MODEL_INFER
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.codec.shared_memory import Regions
from frostline_server.errors import InvalidInput, ModelNotFound, ModelNotReady, PredictionError
from frostline_server.inference import Inference
from frostline_server.model.loader import Loader
from frostline_server.model.stats import Unrouted
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository import rollout_steps as steps
from frostline_server.repository.plan import Known, OnDisk, choose, plan
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository, Traffic
from frostline_server.repository.rollout import Rollout
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, Replies, make_entry
from tests.support.servers import Running, running

Array = np.ndarray[Any, Any]


class Shelf:
    """A repository over a folder, and what it tells.

    Attributes:
        told: model and traffic of every change of a rollout.
        warnings: every warning.
        changes: version and state of every change, in order.
        draws: what the next draws of a split give.
    """

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.told: list[tuple[str, Traffic]] = []
        self.warnings: list[str] = []
        self.changes: list[tuple[str, str]] = []
        self.draws = itertools.cycle([0.0])
        self.watch: Callable[[ModelVersion], None] = lambda version: None
        self.repository = Repository(draw=lambda: next(self.draws))
        self.reconciler = Reconciler(
            root,
            self.repository,
            Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),))),
            on_change=self._changed,
            on_warning=lambda _, text: self.warnings.append(text),
            on_rollout=lambda name, traffic: self.told.append((name, traffic)),
            **options,
        )

    def _changed(self, version: ModelVersion) -> None:
        self.changes.append((version.version, version.state))
        self.watch(version)

    def roll(self, rollout: Rollout | None, name: str = "m") -> None:
        """Write a rollout, or remove it, and look."""
        if rollout is None:
            (self.root / name / rollouts.FILE).unlink()
        else:
            rollouts.write(self.root / name, rollout)
        self.reconciler.reconcile()

    def answers(self, version: str = "") -> str:
        """Which version answers."""
        return self.repository.get("m", version).version

    def states(self) -> dict[str, str]:
        return {version.version: version.state for version in self.repository.versions()}

    @property
    def problems(self) -> tuple[str, ...]:
        return self.repository.traffic("m").problems


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """The versions 1 to 4 of a model, before the first look."""
    for version in (1, 2, 3, 4):
        write_artifact(tmp_path, "m", version)
    made = Shelf(tmp_path)
    yield made
    assert made.reconciler.close(TIMEOUT_S)


def break_golden(root: Path, version: int) -> None:
    (root / "m" / str(version) / "golden.npz").write_bytes(b"damaged")


# What is loaded


POLICY = model_config_pb2.ModelVersionPolicy()
VERSIONS = st.sets(st.integers(1, 9), min_size=1)


@given(VERSIONS, VERSIONS, st.integers(1, 9) | st.none())
def test_the_stable_version_or_the_next_older_that_can_be_is_always_served(
    there: set[int], failed: set[int], stable: int | None
) -> None:
    on_disk = OnDisk(POLICY, dict.fromkeys(there, ()), {stable} if stable else set(), (stable,) if stable else ())
    chosen = choose(on_disk, failed)
    older = [number for number in there - failed if stable is not None and number <= stable]
    assert set(chosen) <= there - failed
    if older:
        assert max(older) in chosen
    # And nothing else besides what the policy asks for.
    assert set(chosen) <= {*([max(older)] if older else []), *choose(OnDisk(POLICY, on_disk.versions), failed)}


def test_the_stable_version_is_loaded_first_and_nothing_is_let_go_before_it_is_there() -> None:
    on_disk = OnDisk(POLICY, dict.fromkeys((1, 2, 3, 4), ()), {1, 2}, (2,))
    assert plan(on_disk, {}).load == (2, 4, 1)
    todo = plan(on_disk, {3: Known(ready=True, fingerprint=())})
    assert (todo.load[0], todo.unload) == (2, ())


def test_the_versions_a_rollout_names_are_served_beside_the_newest(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2, "eu": 1}))
    assert shelf.states() == {"1": "READY", "2": "READY", "4": "READY"}
    assert [shelf.answers(version) for version in ("", "latest", "stable", "eu", "4")] == ["2", "2", "2", "1", "4"]


def test_at_the_start_no_newer_version_answers_while_the_stable_one_is_loading(shelf: Shelf) -> None:
    answered: list[str] = []

    def watch(_: ModelVersion) -> None:
        try:
            answered.append(shelf.answers())
        except ModelNotReady:
            answered.append("not ready")

    shelf.watch = watch
    shelf.roll(Rollout({"stable": 2}))
    assert answered == ["not ready", "2", "2", "2"]


def test_a_change_of_the_rollout_loads_nothing_again_and_lets_go_what_is_no_longer_named(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2, "canary": 3}))
    before = shelf.repository.get("m", "3")
    shelf.changes.clear()
    shelf.roll(Rollout({"stable": 3}, previous=(2,)))
    assert shelf.repository.get("m", "") is before
    assert shelf.changes == [("2", "UNLOADING"), ("2", "UNLOADED")]
    shelf.roll(None)
    assert shelf.answers() == "4"
    assert shelf.states() == {"4": "READY"}


def test_rolling_back_to_a_version_that_must_be_loaded_first_loses_no_request(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 4}, previous=(2,)))
    answered: list[str] = []
    shelf.watch = lambda version: answered.append(shelf.answers())
    shelf.roll(Rollout({"stable": 2}))
    assert answered[:2] == ["4", "2"]
    assert shelf.answers() == "2"


# Versions that cannot be served


def test_a_canary_that_fails_leaves_its_share_to_the_stable_version_and_the_reason_is_told(shelf: Shelf) -> None:
    break_golden(shelf.root, 3)
    shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 50}, 9))
    shelf.draws = itertools.cycle([0.1, 0.9])
    assert {shelf.answers() for _ in range(4)} == {"2"}
    assert shelf.answers("canary") == "2"
    assert shelf.problems == (
        "version 3 is canary and not ready: version 2 answers in its place",
        "version 9 is the shadow and is not ready: nothing is compared",
    )
    assert shelf.told == [("m", shelf.repository.traffic("m"))]
    with pytest.raises(ModelNotReady, match="golden check failed"):
        shelf.answers("3")


def test_in_place_of_a_stable_version_that_fails_an_older_one_answers_and_not_the_newest(shelf: Shelf) -> None:
    break_golden(shelf.root, 3)
    shelf.roll(Rollout({"stable": 3}))
    assert shelf.answers() == "2"
    assert shelf.states() == {"2": "READY", "3": "FAILED", "4": "READY"}
    assert shelf.problems == ("version 3 is stable and not ready: version 2 answers in its place",)


def test_a_promotion_of_a_version_that_fails_changes_nothing_for_those_who_name_none(shelf: Shelf) -> None:
    """The version before it answers, and not one in between that nobody promoted."""
    break_golden(shelf.root, 4)
    shelf.roll(Rollout({"stable": 2}))
    assert shelf.states() == {"2": "READY", "3": "READY", "4": "FAILED"}
    shelf.roll(Rollout({"stable": 4}, previous=(1, 2)))
    assert shelf.answers() == "2"
    assert shelf.problems == ("version 4 is stable and not ready: version 2 answers in its place",)


def test_until_a_promoted_version_is_loaded_the_one_before_it_answers(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}))
    write_artifact(shelf.root, "m", 5)
    answered: list[str] = []
    shelf.watch = lambda version: answered.append(shelf.answers())
    shelf.roll(Rollout({"stable": 5}, previous=(1, 2)))
    assert answered[:2] == ["2", "5"]


def test_until_a_rollback_has_loaded_its_version_the_one_that_leaves_answers(shelf: Shelf) -> None:
    """And not the newest one, or one that was stable before either of them: nobody asked for these."""
    for stable, previous in ((4, ()), (1, (4,)), (2, (4, 1))):
        shelf.roll(Rollout({"stable": stable}, previous=previous))
    answered: list[str] = []
    shelf.watch = lambda version: answered.append(shelf.answers())
    shelf.roll(Rollout({"stable": 1}, previous=(4,)))
    assert answered[:2] == ["2", "1"]
    assert set(answered) == {"1", "2"}


def test_a_rollback_to_a_version_that_fails_goes_back_to_the_one_before_it(shelf: Shelf) -> None:
    break_golden(shelf.root, 1)
    shelf.roll(Rollout({"stable": 2}, previous=(3, 1)))
    shelf.roll(Rollout({"stable": 1}, previous=(3,)))
    assert shelf.answers() == "3"
    assert shelf.problems == ("version 1 is stable and not ready: version 3 answers in its place",)


def test_a_stable_version_that_is_deleted_is_replaced_by_an_older_one(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}))
    (shelf.root / "m" / "2").rename(shelf.root / ".gone")
    shelf.reconciler.reconcile()
    assert shelf.answers() == "1"


def test_without_any_ready_version_a_label_is_refused_as_no_version_would_be(shelf: Shelf) -> None:
    for version in (1, 2, 3, 4):
        break_golden(shelf.root, version)
    shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 50}))
    for asked in ("", "canary", "stable"):
        with pytest.raises(ModelNotFound, match="no available versions"):
            shelf.answers(asked)


def test_a_version_that_is_no_number_and_no_label_is_refused_with_the_labels_there_are(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2, "canary": 3}))
    with pytest.raises(InvalidInput, match=r"should be an integer > 0 or a label: canary, stable$"):
        shelf.answers("canray")
    shelf.roll(None)
    with pytest.raises(InvalidInput, match=r"should be an integer > 0; the model has no labels"):
        shelf.answers("canary")


# The split


def test_requests_that_name_no_version_are_split_by_weight_and_others_are_not(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 5}))
    shelf.draws = itertools.cycle([(number + 0.5) / 100 for number in range(100)])
    for asked in ("", "latest"):
        answered = [shelf.answers(asked) for _ in range(100)]
        assert (answered.count("2"), answered.count("3")) == (95, 5)
    assert {shelf.answers("stable") for _ in range(20)} == {"2"}
    assert {shelf.answers("canary") for _ in range(20)} == {"3"}


def test_a_request_is_drawn_once_also_when_only_the_other_version_knows_its_header(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 50}))
    inference = Inference(shelf.repository, Unrouted(), 1 << 20, Regions(enabled=False, max_tensor_bytes=0))
    rows = onnx_models.rows(1)
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape}
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[rows.tobytes()])
    shelf.draws = itertools.cycle([0.1, 0.9, 0.9])
    answered = [
        inference.prepare(MODEL_INFER, message.SerializeToString(), None, Replies(), None).call.served.version
        for _ in range(6)
    ]
    assert answered == ["2", "3", "3", "2", "3", "3"]


def test_another_model_is_not_split(shelf: Shelf) -> None:
    write_artifact(shelf.root, "other")
    shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 5}))
    assert shelf.repository.get("other", "").version == "1"
    with pytest.raises(ModelNotFound):
        shelf.repository.get("none", "")


def test_no_request_fails_while_rollouts_change(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}))
    stop, failures, answered = threading.Event(), [], set()

    def ask() -> None:
        draws = itertools.cycle([0.2, 0.7])
        shelf.draws = draws
        while not stop.is_set():
            try:
                answered.add(shelf.answers())
            except PredictionError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(10):
            shelf.roll(Rollout({"stable": 2, "canary": 3}, {"canary": 50}, 3))
            shelf.roll(Rollout({"stable": 3}, previous=(2,)))
            shelf.roll(None)
            shelf.roll(Rollout({"stable": 1}))
            shelf.roll(Rollout({"stable": 2}))
    finally:
        stop.set()
        asking.join(TIMEOUT_S)
    assert failures == []
    assert answered <= {"1", "2", "3", "4"}


# The file


def test_a_damaged_file_changes_nothing_and_is_told_once(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}))
    shelf.told.clear()
    (shelf.root / "m" / rollouts.FILE).write_text('{"labels": {"stable": 0}}')
    for _ in range(3):
        shelf.reconciler.reconcile()
    assert shelf.answers() == "2"
    assert shelf.problems == (
        "rollout.json cannot be used: the label 'stable' must be the number of a version, got 0; the previous one stays in force",
    )
    assert [traffic.problems for _, traffic in shelf.told] == [shelf.problems]
    shelf.roll(Rollout({"stable": 3}))
    assert shelf.answers() == "3"
    assert len(shelf.problems) == 0


def test_a_file_that_is_damaged_from_the_start_leaves_the_newest_version_answering(shelf: Shelf) -> None:
    (shelf.root / "m" / rollouts.FILE).write_text("{")
    shelf.reconciler.reconcile()
    assert shelf.answers() == "4"
    assert shelf.problems[0].endswith("the newest version answers")


def test_changes_of_a_rollout_are_told_once_each_and_models_without_one_never(shelf: Shelf) -> None:
    write_artifact(shelf.root, "other")
    shelf.roll(Rollout({"stable": 2}))
    shelf.reconciler.reconcile()
    shelf.roll(Rollout({"stable": 3}))
    shelf.roll(None)
    shelf.reconciler.reconcile()
    assert [(name, traffic.routes.default) for name, traffic in shelf.told] == [("m", 2), ("m", 3), ("m", 4)]


def test_with_explicit_control_the_rollout_is_followed_when_the_model_is_loaded(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, "m", version)
    shelf = Shelf(tmp_path, explicit=True)
    shelf.reconciler.load_model("m")
    assert shelf.answers() == "2"
    rollouts.write(tmp_path / "m", Rollout({"stable": 1}))
    shelf.reconciler.load_model("m")
    assert shelf.answers() == "1"
    assert shelf.reconciler.close(TIMEOUT_S)


# The shadow


def shadow_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("shadow-"))


def test_a_shadow_follows_the_version_that_answers_and_goes_with_the_rollout(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}, shadow=3))
    live, attached = shelf.repository.get("m", "2"), shelf.repository.get("m", "2").tap.shadow
    assert shadow_threads() == ["shadow-m-3"]
    shelf.reconciler.reconcile()
    assert live.tap.shadow is attached
    shelf.roll(Rollout({"stable": 4, "canary": 2}, shadow=3))
    assert live.tap.shadow is None
    assert shelf.repository.get("m", "4").tap.shadow is not None
    assert [shadow[:3] for shadow in shelf.repository.shadows()] == [("m", "3", "4")]
    shelf.roll(Rollout({"stable": 4}))
    assert shadow_threads() == []
    assert shelf.repository.shadows() == []


def test_another_shadow_of_the_same_version_takes_the_place_of_the_first(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}, shadow=3))
    shelf.roll(Rollout({"stable": 2}, shadow=4))
    assert shadow_threads() == ["shadow-m-4"]
    assert shelf.repository.get("m", "2").tap.shadow is not None


def test_a_shadow_ends_with_the_repository(shelf: Shelf) -> None:
    shelf.roll(Rollout({"stable": 2}, shadow=3))
    assert shelf.reconciler.close(TIMEOUT_S)
    assert shadow_threads() == []


def test_a_shadow_that_cannot_be_compared_is_told_and_disturbs_nothing(shelf: Shelf) -> None:
    write_artifact(shelf.root, "m", 5, onnx_models.two_outputs(), golden=False)
    shelf.roll(Rollout({"stable": 2}, shadow=5))
    assert shelf.problems == (
        "version 5 cannot be compared with version 2: only classifiers, with one class for each row, can be compared",
    )
    assert shelf.repository.get("m", "").tap.shadow is None
    replies = Replies()
    shelf.repository.get("m", "").batcher.submit(
        make_entry(onnx_models.rows(1), reply=replies, wanted=(onnx_models.HEADS.argmax,))
    )
    assert replies.wait_for(1)[0].error is None


# Through both front ends

CLASSES, PIXELS, REQUESTS = 10, 64, 1000


def linear(weights: Array) -> onnx.ModelProto:
    """Input `input` [rows, 64] to logits [rows, 10]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def digits_and_flipped() -> tuple[Array, Array, Array]:
    """Pixels [1000, 64], weights, and weights under which close to 3 % of the pictures are another digit.

    All numbers are small multiples of 2 ** -10, so that sums are exact whatever the order and the batch.
    """
    random = np.random.default_rng(4)
    pixels = random.integers(0, 17, (REQUESTS, PIXELS)).astype(np.float32)
    weights = (random.integers(-64, 65, (PIXELS, CLASSES)) / 64).astype(np.float32)
    noise = random.integers(-16, 17, (PIXELS, CLASSES)) / 1024
    right = (pixels @ weights).argmax(axis=1)
    for strength in range(1, 40):
        flipped = (weights + strength * noise).astype(np.float32)
        if ((pixels @ flipped).argmax(axis=1) != right).sum() >= 0.03 * REQUESTS:
            return pixels, weights, flipped
    raise AssertionError("no strength flips 3 %")


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Array]]:
    """A server whose version 1 is stable, 2 is the shadow with flipped labels, and 3 the canary."""
    models = tmp_path_factory.mktemp("models")
    pixels, right, flipped = digits_and_flipped()
    for version, weights in enumerate((right, flipped, right), start=1):
        write_artifact(models, "digits", version, linear(weights), inputs={"input": pixels[:8]}, labels=None)
    rollouts.write(models / "digits", Rollout({"stable": 1, "canary": 3}, {"canary": 20}, 2))
    with running(models, transport=request.param, log_level="error", probe_s=0) as instance:
        yield instance, pixels


def scrape(server: Running) -> dict[str, float]:
    """What a shadow has counted, by the metric's name; buckets left out."""
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=TIMEOUT_S) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if sample.labels == {"model": "digits", "version": "2", "live_version": "1"}
        }


def test_the_shadow_finds_a_version_with_three_percent_flipped_labels_within_a_thousand_requests(
    served: tuple[Running, Array],
) -> None:
    server, pixels = served
    right, flipped = digits_and_flipped()[1:]
    expected = pixels @ right, pixels @ flipped
    disagreements = int((expected[0].argmax(axis=1) != expected[1].argmax(axis=1)).sum())
    assert 30 <= disagreements < 40
    with frostline.connect(server.address) as client, ThreadPoolExecutor(8) as callers:
        answers = list(
            callers.map(lambda x: client.predict("digits", x[None], version="stable", outputs=["argmax"]), pixels)
        )
    assert [int(answer.argmax[0]) for answer in answers] == expected[0].argmax(axis=1).tolist()
    waiting, counted = threading.Event(), {}
    for _ in range(int(TIMEOUT_S * 20)):
        counted = scrape(server)
        if counted["frostline_shadow_rows_total"] >= REQUESTS:
            break
        waiting.wait(0.05)
    assert counted["frostline_shadow_dropped_rows_total"] == counted["frostline_shadow_failed_rows_total"] == 0
    assert counted["frostline_shadow_rows_total"] == REQUESTS
    assert counted["frostline_shadow_disagreements_total"] == disagreements
    assert counted["frostline_shadow_logit_difference_count"] == REQUESTS
    differences = np.abs(expected[0] - expected[1]).max(axis=1)
    assert counted["frostline_shadow_logit_difference_sum"] == pytest.approx(float(differences.sum()), rel=1e-6)


def infer(server: Running, pixels: Array, version: str) -> pb.ModelInferResponse:
    tensor = {"name": "input", "datatype": "FP32", "shape": (1, PIXELS)}
    request = pb.ModelInferRequest(
        model_name="digits", model_version=version, inputs=[tensor], raw_input_contents=[pixels[0].tobytes()]
    )
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer: pb.ModelInferResponse = stub.ModelInfer(request, timeout=TIMEOUT_S)
        return answer


@pytest.mark.parametrize(("asked", "answers"), [("stable", "1"), ("canary", "3"), ("2", "2")])
def test_both_apis_take_a_label_for_a_version_and_say_which_version_answered(
    served: tuple[Running, Array], asked: str, answers: str
) -> None:
    server, pixels = served
    assert infer(server, pixels, asked).model_version == answers
    with frostline.connect(server.address) as client:
        assert client.predict("digits", pixels[:1], version=asked).version == answers
        assert client.ready("digits", version=asked)
        assert client.model("digits", version=asked).version == answers


def test_a_label_that_is_none_is_refused_by_both_apis(served: tuple[Running, Array]) -> None:
    server, pixels = served
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, pixels, "canray")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with frostline.connect(server.address) as client, pytest.raises(frostline.InvalidInput, match="canary, stable"):
        client.predict("digits", pixels[:1], version="canray")


def test_requests_without_a_version_are_shared_between_the_stable_one_and_the_canary(
    served: tuple[Running, Array],
) -> None:
    server, pixels = served
    with frostline.connect(server.address) as client, ThreadPoolExecutor(8) as callers:
        answered = [
            answer.version
            for answer in callers.map(lambda x: client.predict("digits", x[None], outputs=["argmax"]), pixels[:300])
        ]
    assert set(answered) == {"1", "3"}
    # Twenty of a hundred, give or take six standard deviations of three hundred draws.
    assert 18 <= answered.count("3") <= 102


def test_the_catalogue_shows_each_versions_part(served: tuple[Running, Array]) -> None:
    server, _ = served
    with frostline.connect(server.address) as client:
        parts = {
            model.version: (model.version_labels, model.share, model.shadow_of, model.rollout_problem)
            for model in client.models()
        }
    assert parts == {
        "1": (("stable",), 0.8, "", ""),
        "2": ((), 0.0, "1", ""),
        "3": (("canary",), 0.2, "", ""),
    }


def test_statistics_of_a_label_are_those_of_its_version(served: tuple[Running, Array]) -> None:
    server, _ = served
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits", version="canary"), timeout=TIMEOUT_S)
        assert [entry.version for entry in answer.model_stats] == ["3"]


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_a_running_server_follows_promote_and_rollback(tmp_path: Path, front_end: str) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, "m", version)
    waiting = threading.Event()

    def until(client: frostline.Client, version: str) -> None:
        for _ in range(int(TIMEOUT_S * 50)):
            if client.predict("m", onnx_models.rows(1)).version == version:
                return
            waiting.wait(0.02)
        raise AssertionError(f"version {version} does not answer")

    with (
        running(tmp_path, transport=front_end, log_level="error") as server,
        frostline.connect(server.address) as client,
    ):
        until(client, "2")
        rollouts.write(tmp_path / "m", steps.promote(None, 1))
        until(client, "1")
        rollouts.write(tmp_path / "m", steps.promote(rollouts.read(tmp_path / "m", FileReader(tmp_path)), 2))
        until(client, "2")
        rollouts.write(tmp_path / "m", steps.rollback(rollouts.read(tmp_path / "m", FileReader(tmp_path)), {1, 2}))
        until(client, "1")
