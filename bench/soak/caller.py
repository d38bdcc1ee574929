"""The caller's process: it offers a mixed load at a fixed rate, and prints what it saw as JSON for every line that comes in.

It waits for no answer before the next call, and a call's latency counts from when it was due. Nothing is retried.
"""

import argparse
import itertools
import json
import random
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2
from tritonclient.utils import InferenceServerException

from bench.load.versions import NAMES, Answers, infer_request, predict_request
from bench.load.workload import WrongAnswer
from bench.soak.bad import BAD
from bench.soak.calls import Ledger
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT

TIMEOUT_S = 10.0
STREAM_S = 20.0
"""How long a stream asks before it ends and the next one begins."""
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
_HEALTH = "/grpc.health.v1.Health/Check"
_METADATA = "/inference.GRPCInferenceService/ModelMetadata"


class Caller:
    """Calls from many threads until it is stopped.

    Args:
        address: of the server.
        metrics: the URL of its HTTP port; empty for no scrapes.
        options: rates and shares, as on the command line.
    """

    def __init__(self, address: str, metrics: str, options: argparse.Namespace) -> None:
        self.ledger = Ledger()
        self._address = address
        self._metrics = metrics
        self._options = options
        self._answers = Answers()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to call."""
        options = self._options
        tasks: list[Callable[[], None]] = [
            partial(self._unary, options.infer, self._infer),
            partial(self._unary, options.predict, self._predict),
        ]
        tasks += [partial(self._unary, options.control, self._control), self._by_triton, self._scrapes]
        tasks += [partial(self._streams, number) for number in range(options.streams)]
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop calling, and wait until every call has ended."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(3 * TIMEOUT_S)

    def _due(self, rate: float, rng: random.Random) -> Iterator[float]:
        """The times when calls of a Poisson process are due, each when it has come, until the end."""
        due_s = time.perf_counter()
        while rate > 0:
            due_s += rng.expovariate(rate)
            if self._stopped.wait(max(0.0, due_s - time.perf_counter())):
                return
            yield due_s

    def _unary(self, rate: float, ask: Any) -> None:
        rng = random.Random(ask.__name__)
        with grpc.insecure_channel(self._address, _OPTIONS) as channel:
            for number, due_s in enumerate(self._due(rate, rng)):
                ask(channel, rng, number, due_s)
            # A channel that closes cancels what it has open, and nobody asked for that.
            self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until and self.ledger.open:
            time.sleep(0.05)

    def _infer(self, channel: grpc.Channel, rng: random.Random, number: int, due_s: float) -> None:
        if rng.random() < self._options.bad:
            self._bad(channel, rng, due_s)
            return
        name, index = NAMES[number % len(NAMES)], rng.randrange(len(self._answers.inputs[NAMES[0]]))
        message = infer_request(name, self._answers.inputs[name][index], str(number)).SerializeToString()

        def check(response: bytes) -> None:
            answer = pb.ModelInferResponse.FromString(response)
            if answer.id != str(number):
                raise WrongAnswer(f"the answer to {number} has the id {answer.id!r}")
            self._answers.check_infer(name, index, answer)

        self._call(channel, "infer", MODEL_INFER, message, due_s, check, cancel=rng.random() < self._options.cancels)

    def _predict(self, channel: grpc.Channel, rng: random.Random, number: int, due_s: float) -> None:
        name, index = ("mlp", "cnn")[number % 2], rng.randrange(len(self._answers.inputs["mlp"]))
        message = predict_request(name, self._answers.inputs[name][index]).SerializeToString()

        def check(response: bytes) -> None:
            self._answers.check_predict(name, index, typed.PredictResponse.FromString(response))

        self._call(channel, "predict", PREDICT, message, due_s, check, cancel=rng.random() < self._options.cancels)

    def _control(self, channel: grpc.Channel, rng: random.Random, number: int, due_s: float) -> None:
        if number % 2:
            message, method = pb.ModelMetadataRequest(name=rng.choice(NAMES)).SerializeToString(), _METADATA
        else:
            message, method = health_pb2.HealthCheckRequest(service=rng.choice(NAMES)).SerializeToString(), _HEALTH

        def check(response: bytes) -> None:
            if method == _HEALTH and health_pb2.HealthCheckResponse.FromString(response).status != 1:
                raise WrongAnswer("a model that serves is not SERVING")

        self._call(channel, method.rpartition("/")[2], method, message, due_s, check)

    def _bad(self, channel: grpc.Channel, rng: random.Random, due_s: float) -> None:
        name = rng.choice(list(BAD))
        bad = BAD[name]
        kind = f"bad ({name})"

        def check(_: bytes) -> None:
            if "OK" not in bad.allowed:
                raise WrongAnswer("was answered")

        self._call(channel, kind, bad.method, bad.message, due_s, check, allowed=bad.allowed, timeout_s=bad.timeout_s)

    def _call(
        self,
        channel: grpc.Channel,
        kind: str,
        method: str,
        message: bytes,
        due_s: float,
        check: Any,
        *,
        cancel: bool = False,
        allowed: Any = ("OK",),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Make a call, whose end is noted later."""
        self.ledger.begin()
        call: Any = channel.unary_unary(method, None, None)
        future = call.future(message, timeout=timeout_s)
        if cancel:
            kind, allowed = f"{kind}, cancelled", (*allowed, "CANCELLED")
            time.sleep(random.random() * 0.002)
            future.cancel()
        timed = not cancel and "OK" in allowed
        future.add_done_callback(partial(self._done, kind, due_s if timed else None, check, allowed))

    def _done(self, kind: str, due_s: float | None, check: Any, allowed: Any, future: Any) -> None:
        took_s = None if due_s is None else time.perf_counter() - due_s
        status, why, wrong = "OK", "", ""
        try:
            check(future.result())
        except grpc.RpcError as error:
            status, why = error.code().name, str(error.details())
        except grpc.FutureCancelledError:
            status = "CANCELLED"
        except Exception as error:  # noqa: BLE001 - whatever cannot be read as the answer is a wrong one, and no call may go uncounted
            wrong = f"{type(error).__name__}: {error}"[:160]
        self.ledger.end(kind, status, allowed, why=why, wrong=wrong, took_s=took_s)

    def _by_triton(self) -> None:
        """Calls of NVIDIA's own client, one after the other."""
        rng, logits_only = random.Random("triton"), [triton.InferRequestedOutput("logits")]
        with triton.InferenceServerClient(self._address) as client:
            for number, due_s in enumerate(self._due(self._options.triton, rng)):
                name, index = NAMES[number % len(NAMES)], rng.randrange(len(self._answers.inputs["mlp"]))
                inputs = []
                for key, array in self._answers.inputs[name][index].items():
                    tensor = triton.InferInput(key, list(array.shape), "INT64" if array.dtype == np.int64 else "FP32")
                    tensor.set_data_from_numpy(array)
                    inputs.append(tensor)
                status, why, wrong = "OK", "", ""
                self.ledger.begin()
                try:
                    answer = client.infer(name, inputs, outputs=logits_only, client_timeout=TIMEOUT_S)
                    logits, version = answer.as_numpy("logits"), answer.get_response().model_version
                    self._answers.check(name, index, version, logits.shape, logits.tobytes())
                except InferenceServerException as error:
                    status, why = str(error.status()).rpartition(".")[2], str(error.message())
                except Exception as error:  # noqa: BLE001 - as above
                    wrong = f"{type(error).__name__}: {error}"[:160]
                self.ledger.end(
                    "tritonclient", status, ("OK",), why=why, wrong=wrong, took_s=time.perf_counter() - due_s
                )

    def _scrapes(self) -> None:
        if not self._metrics:
            return
        for due_s in self._due(self._options.scrapes, random.Random("scrapes")):
            self.ledger.begin()
            status, why, wrong = "OK", "", ""
            try:
                with urllib.request.urlopen(f"{self._metrics}/metrics", timeout=TIMEOUT_S) as page:
                    if b"\nfrostline_" not in page.read():
                        wrong = "a page without metrics"
            except OSError as error:
                status, why = type(error).__name__, str(error)
            self.ledger.end("scrape", status, ("OK",), why=why, wrong=wrong, took_s=time.perf_counter() - due_s)

    def _streams(self, number: int) -> None:
        rng = random.Random(number)
        while not self._stopped.is_set():
            # A new connection for each, as a client that comes and goes has.
            with grpc.insecure_channel(self._address, _OPTIONS) as channel:
                self._stream(channel, rng, hang_up=rng.random() < self._options.cancels)

    def _stream(self, channel: grpc.Channel, rng: random.Random, *, hang_up: bool) -> None:
        """Ask on one stream for a while; an answer may come in any order, and each request has one."""
        asked: dict[str, tuple[float, str, int, bool]] = {}
        lock, over = threading.Lock(), threading.Event()
        end_s = time.perf_counter() + STREAM_S * rng.random()

        def requests() -> Iterator[pb.ModelInferRequest]:
            for count in itertools.count():
                due_s = time.perf_counter() + rng.expovariate(self._options.stream_rate)
                if due_s > end_s or self._stopped.wait(due_s - time.perf_counter()):
                    return
                name, index = rng.choice(NAMES), rng.randrange(len(self._answers.inputs["mlp"]))
                request = infer_request(name, self._answers.inputs[name][index], str(count))
                good = rng.random() >= self._options.bad
                if not good:
                    request.inputs[0].name = "nobody"
                with lock:
                    if over.is_set():
                        return
                    asked[request.id] = (due_s, name, index, good)
                    self.ledger.begin()
                yield request

        self.ledger.begin()
        status, why = "OK", ""
        call: Any = channel.stream_stream(
            MODEL_STREAM_INFER, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
        )
        answers = call(requests(), timeout=STREAM_S + TIMEOUT_S)
        try:
            for answer in answers:
                self._streamed(asked, answer)
                if hang_up and len(asked) > 1:
                    answers.cancel()
        except grpc.RpcError as error:
            status, why = error.code().name, str(error.details())
        with lock:
            over.set()
        allowed = ("CANCELLED",) if hang_up else ()
        self.ledger.end("stream", status, ("OK", *allowed), why=why, took_s=None)
        for _ in asked:
            self.ledger.end("streamed", "UNANSWERED" if status == "OK" else status, allowed, why=why, took_s=None)

    def _streamed(self, asked: dict[str, tuple[float, str, int, bool]], answer: pb.ModelStreamInferResponse) -> None:
        response = answer.infer_response
        if response.id not in asked:
            self.ledger.begin()
            self.ledger.end("streamed", "OK", ("OK",), wrong="an answer that nobody asked for", took_s=None)
            return
        due_s, name, index, good = asked.pop(response.id)
        took_s, status, wrong = time.perf_counter() - due_s, "OK", ""
        if answer.error_message:
            status = "error"
        else:
            try:
                self._answers.check_infer(name, index, response)
            except Exception as error:  # noqa: BLE001 - as above
                wrong = f"{type(error).__name__}: {error}"[:160]
            if not good:
                wrong = "a bad request was answered"
        kind, allowed = ("streamed", ("OK",)) if good else ("streamed, bad", ("error",))
        self.ledger.end(kind, status, allowed, why=answer.error_message, wrong=wrong, took_s=took_s if good else None)


def main() -> None:
    """Parse the command line and call until the input ends; prints a period's summary for every line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak.caller", description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="host:port of the server")
    parser.add_argument("--metrics", default="", help="URL of its HTTP port, to scrape it")
    rates = {"infer": 60.0, "predict": 30.0, "triton": 3.0, "control": 3.0, "scrapes": 0.2, "stream-rate": 10.0}
    for name, rate in rates.items():
        parser.add_argument(f"--{name}", type=float, default=rate, help=f"a second (default {rate:g})")
    parser.add_argument("--streams", type=int, default=3, help="streams at any time (default 3)")
    parser.add_argument("--cancels", type=float, default=0.05, help="share of calls that are cancelled (default 0.05)")
    parser.add_argument("--bad", type=float, default=0.05, help="share of calls that are bad (default 0.05)")
    options = parser.parse_args()
    # Ctrl-C in a terminal reaches this process too, which has its results to tell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    caller = Caller(options.address, options.metrics, options)
    caller.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "stop":
            caller.stop()
        sys.stdout.write(json.dumps(caller.ledger.period()) + "\n")
        sys.stdout.flush()
    caller.stop()


if __name__ == "__main__":
    main()
