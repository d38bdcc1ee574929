"""What the page shows and a client of the protocol does not need: a version's card and pictures, live numbers, the caller.

Promotion and rollback change the model's rollout.json, as `frostline promote` and `frostline rollback` do, and every call of
them is a line of the audit log.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json as json_bytes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frostline_server import logs
from frostline_server.access.access import Access
from frostline_server.access.identity import Identity
from frostline_server.access.permissions import CONTROL
from frostline_server.errors import ConfigError, ModelNotFound, PredictionError
from frostline_server.http.application import call_of
from frostline_server.http.call import Call, ClientGone
from frostline_server.http.json_bodies import WHOLE, Strict, parsed
from frostline_server.http.statuses import Failure, failure_of
from frostline_server.model.stats import Histogram
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository import rollout_steps as steps
from frostline_server.repository.registry import ModelVersion, Repository
from frostline_server.repository.rollout import Rollout, RolloutChanged
from frostline_server.repository.routes import wanted
from frostline_server.repository.take_back import TakeBack
from frostline_server.rpc.audit import Refusals

CARD, LIVE = "/frostline.v1.Predictor/Schema", "/inference.GRPCInferenceService/ModelStatistics"
"""The methods whose roles these views need: who may read what a model takes may read its card, too."""

_PICTURES: Mapping[str, str] = {".png": "image/png", ".svg": "image/svg+xml"}
_MOST_PICTURE_BYTES = 16 << 20
_PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""Of a picture that is opened by itself: an SVG may hold a program."""


class PromoteRequest(Strict):
    """A version to promote, or to try beside the stable version."""

    version: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="null for the version on trial, or the newest"
    )
    canary: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        None, description="try it with this share of the traffic, in percent"
    )
    shadow: bool = Field(False, description="try it with a copy of the traffic")
    take_back: dict[str, float | int] | None = Field(None, description="when the server takes the canary back")
    expected: int | None = Field(None, ge=1, description="refuse if another version is live by now")


class RollbackRequest(Strict):
    """The step back."""

    expected: int | None = Field(None, ge=1, description="refuse if another version is live by now")


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a rollout, and the version that must be live for it."""

    take: Callable[[Rollout | None, list[int]], Rollout]
    expected: int | None


class Views:
    """The endpoints of the page.

    Args:
        repository: the models.
        access: who may call what.
        folder: gives a model's folder.
        files: reads what is in it.
        changed: called when a rollout has changed; from any thread.
        unready: why the server is not ready, or "" when it is.
        address: gives the address of gRPC's port.
        loads: whether clients can have models loaded and unloaded.
        processes: that share the port, of which this one shows its own numbers.
    """

    def __init__(
        self,
        repository: Repository,
        access: Access,
        folder: Callable[[str], Path],
        files: FileReader,
        changed: Callable[[], None],
        unready: Callable[[], str],
        address: Callable[[], str],
        loads: bool,
        processes: int,
    ) -> None:
        self._repository = repository
        self._access = access
        self._folder = folder
        self._files = files
        self._changed = changed
        self._unready = unready
        self._address = address
        self._loads = loads
        self._processes = processes
        self._refusals = {method: Refusals() for method in ("Promote", "Rollback")}

    def routes(self) -> list[Route]:
        """Each path with what answers it."""
        version = "/v2/models/{model}/versions/{version}"
        return [
            Route("/v2/status", self.status),
            Route("/v2/me", self.me),
            Route("/v2/models/{model}/live", self.live),
            Route(f"{version}/card", self.card),
            Route(f"{version}/pictures/{{file}}", self.picture),
            Route("/v2/models/{model}/promote", self.promote, methods=["POST"]),
            Route("/v2/models/{model}/rollback", self.rollback, methods=["POST"]),
        ]

    async def status(self, _: Request) -> Response:
        """Whether the server is ready, and why not: with OK either way, for people; where gRPC is, and who may load."""
        reason = self._unready()
        told = {"ready": not reason, "reason": reason, "grpc": self._address(), "model_control": self._loads}
        return _json(told)

    async def me(self, request: Request) -> Response:
        """Who the caller is taken for, and what it may do here."""
        identity = call_of(request).identify(self._access)
        roles = self._access.roles(identity)
        return _json({"name": identity.name, "credential": identity.credential, "roles": roles})

    async def card(self, request: Request) -> Response:
        """A version's card, and the names of its pictures."""
        call = call_of(request)
        call.admit(self._access, CARD)
        version = self._version(call)
        return _json(await _in_thread(lambda: self._card(version)))

    def _card(self, version: ModelVersion) -> dict[str, Any]:
        try:
            found = json.loads(self._files.text(version.path / "card.json"))
        # There need be none, and what is wrong with it is in the version's reason.
        except (OSError, ValueError, RecursionError):
            found = {}
        card: dict[str, Any] = found if isinstance(found, dict) else {}
        try:
            there = () if self._files.outside(version.path) else version.path.iterdir()
            pictures = sorted(path.name for path in there if path.suffix in _PICTURES)
        except OSError:
            pictures = []
        # Of a picture in two formats, the one that is sharp at any size.
        sharp = {name[:-4] for name in pictures if name.endswith(".svg")}
        shown = [name for name in pictures if name.endswith(".svg") or name[:-4] not in sharp]
        return {**card, "pictures": shown}

    async def picture(self, request: Request) -> Response:
        """A picture of a version."""
        call = call_of(request)
        call.admit(self._access, CARD)
        version, name = self._version(call), call.parameters["file"]
        path = version.path / name
        none = Failure(404, f"version {version.version} of {version.name} has no picture {name[:100]!r}", "not_found")
        if path.name != name or path.suffix not in _PICTURES or name.startswith("."):
            raise none
        try:
            content = await _in_thread(lambda: self._files.read(path, _MOST_PICTURE_BYTES))
        except OSError as error:
            raise none from error
        said = {"content-security-policy": _PICTURE_POLICY, "cache-control": "private, max-age=60"}
        return Response(content, media_type=_PICTURES[path.suffix], headers=said)

    async def live(self, request: Request) -> Response:
        """A model's numbers since the start, for charts."""
        call = call_of(request)
        call.admit(self._access, LIVE)
        name = call.parameters["model"]
        versions = self._repository.versions(name)
        if not versions:
            raise failure_of(ModelNotFound(f"Request for unknown model: {name[:200]!r} is not found"))
        traffic = self._repository.traffic(name)
        routes = traffic.routes
        return _json(
            {
                "model": name,
                "at_s": time.monotonic(),
                "processes": self._processes,
                "traffic": {
                    "labels": dict(routes.labels),
                    "percent": {str(number): round(100 * share, 3) for number, share in routes.shares().items()},
                    "shadow": routes.shadow,
                    "problems": traffic.problems,
                },
                "versions": [_live(version) for version in versions],
            }
        )

    async def promote(self, request: Request) -> Response:
        """Promote a version, or try it."""
        call = call_of(request)

        async def step() -> _Step:
            asked = await call.read(await call.body() or b"{}", partial(parsed, PromoteRequest))

            def take(before: Rollout | None, there: list[int]) -> Rollout:
                rule = None if asked.take_back is None else TakeBack.parse(asked.take_back)
                return steps.next_step(
                    before, there, asked.version, canary=asked.canary, shadow=asked.shadow, take_back=rule
                )

            return _Step(take, asked.expected)

        return await self._change(call, "Promote", step)

    async def rollback(self, request: Request) -> Response:
        """End a trial, or return to the previous version."""
        call = call_of(request)

        async def step() -> _Step:
            asked = await call.read(await call.body() or b"{}", partial(parsed, RollbackRequest))
            return _Step(steps.rollback, asked.expected)

        return await self._change(call, "Rollback", step)

    async def _change(
        self,
        call: Call,
        method: str,
        step: Callable[[], Awaitable[_Step]],
    ) -> Response:
        """Change a model's rollout, with a line in the audit log."""
        name = call.parameters["model"]
        who = Identity("unknown", frozenset(), "unknown")
        status, admitted = "UNKNOWN", False
        try:
            who = call.identify(self._access)
            if CONTROL.isdisjoint(self._access.roles(who)):
                raise failure_of(self._access.refusal(who, CONTROL, method))
            _admit(who)
            admitted = True
            after = await self._changed_rollout(name, await step())
            status = "OK"
        except Failure as failure:
            status = failure.code or "INVALID_ARGUMENT"
            raise
        except (ClientGone, asyncio.CancelledError):
            status = "CANCELLED"
            raise
        finally:
            calls = 1 if admitted else self._refusals[method].stands_for(call.exchange.peer, time.monotonic())
            told = {"identity": who.name, "credential": who.credential, "peer": call.exchange.peer}
            if calls:
                logs.audit(**told, method=method, model=name[:200], status=status, calls=calls)
        return _json({"rollout": after.told})

    async def _changed_rollout(self, name: str, step: _Step) -> Rollout:
        if not self._repository.versions(name):
            raise failure_of(ModelNotFound(f"Request for unknown model: {name[:200]!r} is not found"))

        def change() -> Rollout:
            return rollouts.change(self._folder(name), self._files, self._checked(name, step.take), step.expected)

        try:
            after: Rollout = await _in_thread(change)
        except RolloutChanged as error:
            raise Failure(409, f"{name}: {error}", "rollout_changed", code="ABORTED") from error
        except (ConfigError, OSError) as error:
            raise Failure(409, f"{name}: {error}", "rollout_refused", code="FAILED_PRECONDITION") from error
        await _in_thread(self._changed)
        return after

    def _checked(
        self, name: str, step: Callable[[Rollout | None, list[int]], Rollout]
    ) -> Callable[[Rollout | None, list[int]], Rollout]:
        """A step that names no version anew which is known to be FAILED."""

        def checked(before: Rollout | None, there: list[int]) -> Rollout:
            after = step(before, there)
            for number in wanted(after) - wanted(before):
                version = self._repository.of(name).get(number)
                if version is not None and version.state == "FAILED":
                    raise ConfigError(f"version {number} failed to load: {version.reason}")
            return after

        return checked

    def _version(self, call: Call) -> ModelVersion:
        """The version that the path names, whatever its state."""
        name, version = call.parameters["model"], call.parameters["version"]
        number = int(version) if version.isascii() and version.isdecimal() and len(version) < 20 else -1
        if number < 0:
            number = self._repository.traffic(name).routes.labels.get(version, -1)
        found = self._repository.of(name).get(number)
        if found is None:
            raise failure_of(ModelNotFound(f"model {name[:200]!r} has no version {version[:100]!r}"))
        return found


def _admit(identity: Identity) -> None:
    try:
        identity.admit(time.monotonic())
    except PredictionError as error:
        raise failure_of(error) from None


def _live(version: ModelVersion) -> dict[str, Any]:
    served = version.served  # read once: it may be released meanwhile
    told: dict[str, Any] = {"version": version.version, "state": version.state, "reason": version.reason}
    if served is None:
        return told
    stats = served.stats.snapshot()
    heads = served.sessions[0].signature.heads
    return told | {
        "fault": served.fault,
        "device": served.device,
        "provider": served.provider,
        "verified": served.golden is not None,
        "requests": stats.succeeded,
        "failed": sum(stats.codes.values()) - stats.succeeded,
        "rows": stats.rows,
        "queue_rows": served.batcher.queued_rows,
        "latency_s": _histogram(stats.request_seconds),
        "batch_rows": _histogram(stats.batch_rows),
        "predictions": served.predictions.counts()[0] if heads and heads.confidence else None,
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    counts = [int(count) for _, count in histogram.buckets()]
    return {"bounds": histogram.bounds, "counts": counts, "sum": histogram.total}


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _json(told: Any) -> Response:
    return Response(json_bytes(told, inf_nan_mode="strings"), media_type="application/json")
