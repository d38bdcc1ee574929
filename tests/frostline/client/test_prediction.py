"""What each task's answer reads, from messages."""

from typing import Any

import numpy as np
import pytest

from frostline.client import messages
from frostline.client.prediction import Prediction
from frostline.pb import predictor_pb2 as pb

NAN = float("nan")


def tensor(values: Any, dtype: Any = np.float32, name: str = "") -> pb.Tensor:
    array = np.array(values, dtype)
    kind = {"f4": pb.FP32, "f8": pb.FP64, "i8": pb.INT64}[array.dtype.str[1:]]
    return pb.Tensor(name=name, dtype=kind, shape=array.shape, data=array.tobytes())


def classes(*, task: str = "single-label", labels: Any = (), top_k: int = 0, **fields: Any) -> Prediction:
    """The answer of a model that chooses one of several classes."""
    response = pb.PredictResponse(model="m", version="1", task=task, labels=labels, **fields)
    return messages.prediction(response, top_k)


def own(task: str, values: Any, name: str = "probabilities", dtype: Any = np.float32, **fields: Any) -> Prediction:
    """The answer of a model by its own output."""
    response = pb.PredictResponse(model="m", version="1", task=task, values=[tensor(values, dtype, name)], **fields)
    return messages.prediction(response, 0)


def ranking(*rows: list[tuple[int, str, float]]) -> Any:
    return [
        pb.Ranking(classes=[pb.Class(index=index, label=label, probability=p) for index, label, p in row])
        for row in rows
    ]


def test_the_label_that_the_server_decided_is_kept_beside_a_ranking() -> None:
    answer = classes(
        labels=["yes", "no"],
        thresholds=[0.2],
        top=ranking([(0, "no", 0.7), (1, "yes", 0.3)], [(0, "no", 0.9), (1, "yes", 0.1)]),
        top_k=2,
    )
    assert answer.labels == ("yes", "no")
    assert answer.argmax.tolist() == [0, 0]
    assert [row[0][0] for row in answer.top(2)] == ["no", "no"]


def test_of_a_ranking_without_labels_of_the_servers_the_best_is_the_label() -> None:
    answer = classes(top=ranking([(1, "bee", 0.6)], [(0, "ant", 0.9)]), top_k=1)
    assert answer.labels == ("bee", "ant")


def test_a_row_of_nan_has_no_label() -> None:
    argmax, labels = tensor([0, 1], np.int64), ["ant", "bee"]
    assert classes(argmax=argmax, labels=labels, softmax=tensor([[NAN, NAN], [0.1, 0.9]])).labels == (None, "bee")
    ranked = ranking([(0, "ant", NAN), (1, "bee", NAN)], [(1, "bee", 0.9), (0, "ant", 0.1)])
    assert classes(top=ranked, top_k=2).labels == (None, "bee")
    assert classes(argmax=argmax, labels=["", "bee"], thresholds=[0.5]).labels == (None, "bee")
    assert own("binary", [[NAN], [0.9]], names=["no", "yes"]).labels == (None, "yes")
    assert own("binary", [NAN, 0.2]).labels == (None, False)
    assert own("multi-label", [[0.9, NAN], [0.9, 0.1], [0, 0]], names=["a", "b"]).labels == (None, ("a",), ())


def test_a_class_that_has_no_label_of_its_own_is_not_taken_for_unknown() -> None:
    assert classes(argmax=tensor([0, 1], np.int64), labels=["", "bee"]).labels == ("", "bee")


def test_thresholds_are_read_as_they_were_written() -> None:
    assert classes(argmax=tensor([0], np.int64), labels=["no"], thresholds=[0.2]).thresholds == (0.2,)
    assert own("multi-label", [[0.2, 0.6]], names=["a", "b"], thresholds=[0.2, 0.7]).thresholds == (0.2, 0.7)
    # The float of 0.2 is above it, and the row of a model in double precision is not.
    assert own("binary", [0.2], dtype=np.float64, thresholds=[0.2]).labels == (True,)
    assert own("binary", [0.5]).thresholds == (0.5,)
    with pytest.raises(
        AttributeError, match="m has no threshold: the label of a row is that of its most probable class"
    ):
        _ = classes(argmax=tensor([0], np.int64)).thresholds


def test_a_map_has_names_and_no_ranking_and_no_labels() -> None:
    place = tensor(np.zeros((1, 2, 2)), np.int64)
    answer = classes(task="dense", argmax=place, softmax=tensor(np.full((1, 3, 2, 2), 1 / 3)), names=["a", "b", "c"])
    assert (answer.map.shape, answer.names) == ((1, 2, 2), ("a", "b", "c"))
    for read, name in ((lambda: answer.top(1), r"top\(\)"), (lambda: answer.labels, "labels")):
        with pytest.raises(AttributeError, match=rf"of the task 'dense', which has no \.{name}; it has \.map, "):
            read()


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("single-label", "values"), ("single-label", "vector"), ("dense", "values"), ("regression", "labels"),
        ("regression", "thresholds"), ("embedding", "names"), ("any", "probabilities"), ("multi-label", "softmax"),
    ],
)  # fmt: skip
def test_what_a_task_does_not_read_says_what_it_does(task: str, name: str) -> None:
    logits = tensor([[0.5, 0.5]])
    answer = classes(softmax=logits, task=task) if task in ("single-label", "dense") else own(task, [[1.0]])
    with pytest.raises(AttributeError, match=rf"of the task '{task}', which has no \.{name}; it has \.") as caught:
        getattr(answer, name)
    assert "outputs=" not in str(caught.value)


def test_a_ranking_of_another_task_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        AttributeError, match=r"of the task 'multi-label', which has no \.top\(\); it has \.probabilities"
    ):
        own("multi-label", [[0.5, 0.5]]).top(2)


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("probabilities", r"\.probabilities of the answer to outputs=\['softmax'\] .* else to outputs=\['values'\]"),
        ("labels", r"Leave outputs= out, and read \.labels"),
        ("embedding", r"own outputs are those of outputs=\['values'\], in \.outputs by their names"),
    ],
)
def test_what_cannot_be_asked_for_says_how_it_is_read(output: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"^there is no output '{output}'; there are: logits, .*{remedy}"):
        messages.request("m", np.zeros((1, 2), np.float32), version="", outputs=(output,), top_k=0)
