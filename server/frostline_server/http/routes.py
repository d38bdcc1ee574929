"""The routes of the HTTP port, with what answers each."""

import asyncio

from starlette.routing import BaseRoute

from frostline_server.access.access import Access
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.shared_memory import Regions
from frostline_server.http.application import call_of
from frostline_server.http.inference_calls import InferenceCalls
from frostline_server.http.openapi.endpoint import OpenApi
from frostline_server.http.page_files import PageFiles
from frostline_server.http.rest import Rest
from frostline_server.http.rows.predict import Predict
from frostline_server.http.views import Views
from frostline_server.inference import Inference
from frostline_server.repository.registry import Repository
from frostline_server.rpc.guard import guarded
from frostline_server.rpc.methods import Methods
from frostline_server.rpc.oip_service import InferenceService


def routes(
    inference: Inference,
    service: InferenceService,
    access: Access,
    regions: Regions,
    repository: Repository,
    views: Views,
) -> list[BaseRoute]:
    """Every path that is answered; to be called on the event loop.

    Args:
        inference: takes inference calls.
        service: answers the protocol's other calls.
        access: who may call what.
        regions: the shared memory that tensors may lie in.
        repository: the models.
        views: what the page shows.
    """
    own = Methods()
    service.register(own)
    methods = guarded(own, access)
    calls = InferenceCalls(inference, RequestDecoder(regions, brief=True), access, asyncio.get_running_loop())
    rest, predict = Rest(methods, calls, repository, call_of), Predict(methods, own, calls, call_of)
    # The commonest first: they are looked through one after the other.
    answered: list[BaseRoute] = [
        *rest.inference(),
        *predict.routes(),
        *rest.routes(),
        *views.routes(),
        *PageFiles().routes(),
    ]
    return [*answered, *OpenApi(methods, own, call_of, answered).routes()]
