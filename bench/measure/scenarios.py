"""The scenarios of the benchmark: each measures one thing, with its baseline, in one round."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from bench.load import baselines, networks
from bench.load.workload import Questions, ask, framed
from bench.measure.harness import Lab, Sample, Samples
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from frostline.tune import openloop
from frostline.tune.http2 import Answer, connected

MLP = networks.mlp([784, 256, 128, 10])
TINY = networks.mlp([4, 16, 3])
IN_FLIGHT = (1, 8, 64, 256)
OPEN_LOAD = 0.5
"""Of the peak."""
CONNECTIONS = 1000
STREAM = 256
"""Messages in one stream."""
_OPEN_CONNECTIONS = 2


def _mlp(lab: Lab, in_flight: int) -> Samples:
    name = f"mlp@{in_flight}"
    questions = ask("mlp", MLP, [784])
    server = lab.server("mlp", {"mlp": MLP})
    return {
        name: lab.closed(server, questions, in_flight),
        **lab.echoes(name, questions.messages[0], in_flight),
    }


def _tls(lab: Lab) -> Samples:
    questions = ask("mlp", MLP, [784])
    plain, secure = lab.server("mlp", {"mlp": MLP}), lab.server("mlp, TLS", {"mlp": MLP}, tls=True)
    samples = {"mlp@64, beside TLS": lab.closed(plain, questions, 64)}
    return samples | {"mlp@64, TLS": lab.closed(secure, questions, 64, beside=plain)}


def _connections(lab: Lab) -> Samples:
    questions = ask("mlp", MLP, [784])
    server = lab.server("mlp", {"mlp": MLP})
    name = f"mlp@{CONNECTIONS}, one call a connection"
    return {name: lab.closed(server, questions, CONNECTIONS, connections=CONNECTIONS)}


def _tiny(lab: Lab) -> Samples:
    questions = ask("tiny", TINY, [4])
    server = lab.server("small", {"tiny": TINY, "image": networks.image()})
    return {"tiny@64": lab.closed(server, questions, 64), **lab.echoes("tiny@64", questions.messages[0], 64)}


def _onnxruntime(lab: Lab) -> Samples:
    return {
        f"mlp ONNX Runtime, batch {batch}": {"rate": baselines.rows_per_second(MLP, [784], batch, lab.seconds / 2)}
        for batch in (1, 64)
    }


def _cnn(lab: Lab) -> Samples:
    net = networks.cnn()
    questions = ask("cnn", net, networks.CNN_SHAPE)
    alone = baselines.rows_per_second(net, networks.CNN_SHAPE, 64, lab.seconds / 2)
    one = lab.closed(lab.server("cnn", {"cnn": net}, "--threads", "1"), questions, 64)
    return {"cnn@64": one, "cnn@64 ONNX Runtime, 1 thread": {"rate": alone}}


def _cnn_on_two(lab: Lab) -> Samples:
    net = networks.cnn()
    questions = ask("cnn", net, networks.CNN_SHAPE)
    alone = baselines.rows_per_second(net, networks.CNN_SHAPE, 64, lab.seconds / 2, threads=2)
    twice = "instance_group { count: 2 kind: KIND_CPU }"
    instances = lab.server("cnn, 2 instances", {"cnn": net}, "--threads", "1", config=twice)
    return {
        "cnn@64, 2 threads": lab.closed(lab.server("cnn, 2 threads", {"cnn": net}, "--threads", "2"), questions, 64),
        "cnn@64, 2 instances": lab.closed(instances, questions, 64),
        "cnn@64, 2 threads ONNX Runtime": {"rate": alone},
    }


def _open(lab: Lab) -> Samples:
    """Open-loop load at a share of the peak; the echoes under the same load show the client's own part."""
    questions = ask("mlp", MLP, [784])
    server = lab.server("mlp", {"mlp": MLP})
    peak = max(lab.closed(server, questions, in_flight)["rate"] for in_flight in (64, 256))
    rate = OPEN_LOAD * peak
    samples = {"open loop": poisson(lab, server.address, MODEL_INFER, questions, rate, check=True)}
    for kind in lab.echo_kinds():
        address = lab.echo_server(kind).address
        samples[f"open loop {kind}"] = poisson(lab, address, baselines.ECHO, questions, rate)
    for kind in lab.echo_kinds()[:1]:
        samples["open loop, the client's ceiling"] = {"rate": ceiling(lab, kind, questions)}
    return samples


def ceiling(lab: Lab, kind: str, questions: Questions) -> float:
    """Answers a second that the open-loop client gets from an echo when every request is due at once."""
    bodies = [framed(message) for message in questions.messages]
    due_s = np.zeros(round(20_000 * lab.seconds))
    with connected(lab.echo_server(kind).address, baselines.ECHO, _OPEN_CONNECTIONS) as connections:
        outcome = openloop.drive(connections, bodies, due_s, lambda *_: None)
    return float(len(due_s) / outcome.latency_s.max())


def poisson(lab: Lab, address: str, method: str, questions: Questions, rate: float, *, check: bool = False) -> Sample:
    """Put open-loop load on a server; with `check`, a sample of the answers must be right.

    Returns:
        As `Lab.closed` without the server's costs, and with the p99 of the client's lateness.
    """

    def on_answer(number: int, answer: Answer) -> None:
        if check and answer.status == 0:
            questions.check(number % len(questions.messages), answer.messages()[0])

    bodies = [framed(message) for message in questions.messages]
    due_s = openloop.poisson(rate, lab.seconds, seed=lab.number)
    with connected(address, method, _OPEN_CONNECTIONS) as connections:
        outcome = openloop.drive(connections, bodies, due_s, on_answer)
    counted = outcome.due_s >= 0.2 * lab.seconds
    answered = outcome.status[counted] == 0
    # Who was refused has waited for ever.
    waited_s = np.where(answered, outcome.latency_s[counted], np.inf)
    p50, p99 = np.percentile(waited_s, [50, 99], method="higher") * 1000
    return {
        "rate": float(np.count_nonzero(answered) / (0.8 * lab.seconds)),
        "offered": rate,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "late_p99_ms": float(np.percentile(outcome.late_s[counted], 99) * 1000),
    }


def _stream(lab: Lab) -> Samples:
    questions = ask("mlp", MLP, [784])
    server = lab.server("mlp", {"mlp": MLP})
    sample = lab.closed(server, questions, 2, method=MODEL_STREAM_INFER, stream_of=STREAM)
    # Those are of whole streams.
    del sample["p50_ms"], sample["p99_ms"]
    return {"stream": sample}


def _images(lab: Lab) -> Samples:
    net = networks.image()
    server = lab.server("small", {"tiny": TINY, "image": net})
    samples: Samples = {}
    for dtype in ("float32", "uint8"):
        questions = ask("image", net, networks.IMAGE_SHAPE, dtype=dtype, count=4)
        name = f"image {dtype}@8"
        samples[name] = lab.closed(server, questions, 8)
        samples |= lab.echoes(name, questions.messages[0], 8)
    samples["image ONNX Runtime"] = {"rate": baselines.rows_per_second(net, networks.IMAGE_SHAPE, 8, lab.seconds / 4)}
    return samples


def _models(lab: Lab) -> Samples:
    questions = ask("mlp", MLP, [784])
    many = {"mlp": MLP} | {f"other{number}": MLP for number in range(99)}
    servers = {"1 model@64": lab.server("mlp", {"mlp": MLP}), "100 models@64": lab.server("hundred", many)}
    # Whoever comes first in one round comes last in the next.
    order = sorted(servers, reverse=lab.number % 2 == 1)
    return {name: lab.closed(servers[name], questions, 64) for name in order}


def _start(lab: Lab) -> Samples:
    small = {f"small{number}": TINY for number in range(10)}
    with Lab(lab.seconds, lab.flags) as fresh:
        begin = time.perf_counter()
        fresh.server("ten", small)
        return {"start, 10 models": {"ready_s": time.perf_counter() - begin}}


ROWS: Mapping[str, Callable[[Lab], Samples]] = {
    **{f"mlp@{in_flight}": partial(_mlp, in_flight=in_flight) for in_flight in IN_FLIGHT},
    "tls@64": _tls,
    "connections": _connections,
    "tiny@64": _tiny,
    "onnxruntime": _onnxruntime,
    "cnn@64": _cnn,
    "cnn@64x2": _cnn_on_two,
    "open": _open,
    "stream": _stream,
    "images": _images,
    "models": _models,
    "start": _start,
}
"""By name, in the order in which a round measures them."""
