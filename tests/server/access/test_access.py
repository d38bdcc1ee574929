"""Who a caller is and what it may do, on one port."""

import hashlib
import hmac
from collections.abc import Collection
from pathlib import Path

import pytest

from frostline_server.access import credentials as credentials_module
from frostline_server.access.access import Access
from frostline_server.access.credentials import Credentials
from frostline_server.access.identity import Identity
from frostline_server.access.permissions import CONTROL, EVERY_ROLE, METRICS, NEEDED, OBSERVE, SETTINGS
from frostline_server.config import ROLES
from frostline_server.errors import PermissionDenied, RateLimited, Unauthenticated

INFER = "/inference.GRPCInferenceService/ModelInfer"
INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
LOG = "/inference.GRPCInferenceService/LogSettings"
READY = "/inference.GRPCInferenceService/ServerReady"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def entry(name: str, token: str, roles: str, more: str = "") -> str:
    """A token's table in an access file."""
    listed = ", ".join(f'"{role}"' for role in roles.split(","))
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nroles = [{listed}]\n{more}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(
        entry("shop", "s3same", "predict")
        + entry("ops", "0ps", "observe,control")
        + '[[certificates]]\nname = "gateway"\nsubjects = ["gateway.example", "spiffe://c/ns/x"]\nroles = ["predict"]\n'
    )
    return path


@pytest.fixture
def credentials(file: Path) -> Credentials:
    store = Credentials(file)
    store.start()
    store.close()  # the test looks itself
    return store


def open_access(anonymous: Collection[str] = ("predict", "observe")) -> Access:
    return Access(None, anonymous)


def may(access: Access, identity: Identity, method: str, *, changes: bool = False) -> bool:
    try:
        access.permit(identity, method, changes=changes)
    except (PermissionDenied, Unauthenticated):
        return False
    return True


def test_a_token_is_its_owners(credentials: Credentials) -> None:
    access = Access(credentials, ())
    assert access.identify(b"Bearer s3same").name == "shop"
    assert access.identify(b"bearer  0ps ").roles == {"observe", "control"}


@pytest.mark.parametrize("shown", [b"Bearer wrong", b"Bearer ", b"", b"s3same", b"Basic s3same", b"Bearer s3same,Bearer s3same", b"Bearer \xff"])  # fmt: skip
def test_credentials_that_are_not_known_are_refused_also_where_anonymous_callers_may_call(
    credentials: Credentials, shown: bytes
) -> None:
    with pytest.raises(Unauthenticated, match="`authorization: Bearer TOKEN`") as caught:
        Access(credentials, ROLES).identify(shown)
    assert "s3same" not in str(caught.value)


def test_a_certificate_is_whose_entry_has_one_of_its_names(credentials: Credentials) -> None:
    access = Access(credentials, ("observe",))
    assert access.identify(None, ["client", "gateway.example"]).name == "gateway"
    assert access.identify(None, ["spiffe://c/ns/x"]).credential == "certificate"
    assert access.identify(None, ["else.example"]).name == "anonymous"


def test_a_token_decides_before_a_certificate(credentials: Credentials) -> None:
    assert Access(credentials, ()).identify(b"Bearer 0ps", ["gateway.example"]).name == "ops"


def test_without_an_access_file_everyone_is_anonymous_and_a_token_means_nothing() -> None:
    access = open_access()
    assert access.identify(b"Bearer of-a-proxy") is access.identify(None)
    assert not access.asks


def test_the_front_end_need_not_ask_where_everyone_may_predict(credentials: Credentials) -> None:
    assert open_access().free
    assert not open_access(("observe",)).free
    assert not Access(None, ROLES, CONTROL | OBSERVE).free
    assert not Access(credentials, ROLES).free


def test_a_wrong_token_and_none_are_compared_with_as_many_as_a_right_one(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Counting:
        compare_digest = staticmethod(counting)

    monkeypatch.setattr(credentials_module, "hmac", Counting)
    access = Access(credentials, ("predict",))
    work = []
    for shown in (b"Bearer s3same", b"Bearer 0ps", None):
        access.identify(shown)
        work.append(tuple(compared))
        compared.clear()
    for shown in (b"Bearer wrong", b"Basic x", b""):
        with pytest.raises(Unauthenticated):
            access.identify(shown)
        work.append(tuple(compared))
        compared.clear()
    assert set(work) == {((32, 32), (32, 32))}


def test_each_role_opens_its_own_methods_and_no_other() -> None:
    access = open_access()
    for role in ROLES:
        identity = Identity("x", frozenset({role}), "token")
        for method, roles in NEEDED.items():
            assert may(access, identity, method) == (not roles or role in roles)
    for method in SETTINGS:
        assert [may(access, Identity("x", frozenset({role})), method, changes=True) for role in ROLES] == [False, False, True]  # fmt: skip


@pytest.mark.parametrize(
    ("roles", "methods"),
    [
        ({"predict"}, "ModelInfer ModelStreamInfer Predict"),
        # Reflection is there as v1 and as v1alpha.
        ({"predict", "observe"}, "ModelReady ServerMetadata ModelMetadata ModelConfig Schema ServerReflectionInfo ServerReflectionInfo"),
        ({"observe"}, "ModelStatistics RepositoryIndex SystemSharedMemoryStatus CudaSharedMemoryStatus TraceSetting LogSettings metrics"),
        ({"control"}, "RepositoryModelLoad RepositoryModelUnload SystemSharedMemoryRegister SystemSharedMemoryUnregister CudaSharedMemoryRegister CudaSharedMemoryUnregister"),
        (set(), "ServerLive ServerReady Check Watch"),
    ],
)  # fmt: skip
def test_each_method_needs_the_role_that_the_guide_says(roles: set[str], methods: str) -> None:
    found = [path.rpartition("/")[2] for path, needed in NEEDED.items() if needed == frozenset(roles)]
    assert sorted(found) == sorted(methods.split())


def test_what_is_open_to_everybody_needs_no_role() -> None:
    nobody = Identity("x", frozenset())
    assert [method for method in NEEDED if may(open_access(), nobody, method)] == [
        "/inference.GRPCInferenceService/ServerLive",
        READY,
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ]


def test_a_method_that_nobody_serves_is_not_refused_here() -> None:
    open_access(()).permit(Identity("x", frozenset()), "/no.Such/Method")


def test_a_known_caller_is_told_what_is_missing_who_it_is_and_what_the_operator_can_do(
    credentials: Credentials,
) -> None:
    access = Access(credentials, ())
    with pytest.raises(PermissionDenied) as caught:
        access.permit(access.identify(b"Bearer s3same"), LOAD)
    assert str(caught.value) == (
        "RepositoryModelLoad needs the role control; you are taken for 'shop', whose roles are: predict; the operator can "
        "add a role there in the access file"
    )


def test_an_anonymous_caller_is_told_what_to_show_and_what_the_operator_can_write(credentials: Credentials) -> None:
    with pytest.raises(Unauthenticated) as caught:
        open_access(("observe",)).permit(open_access(("observe",)).identify(None), INFER)
    assert str(caught.value) == (
        "ModelInfer needs the role predict; you are taken for an anonymous caller, whose roles are: observe; "
        "the operator can start the server with --allow-anonymous predict,observe, or give you a token (--access-file)"
    )
    access = Access(credentials, ())
    with pytest.raises(Unauthenticated) as caught:
        access.permit(access.identify(None), METADATA)
    assert str(caught.value) == (
        "ModelMetadata needs the role predict or observe; you are taken for an anonymous caller, whose roles are: none; send `authorization: Bearer TOKEN`, or the operator starts the server with --allow-anonymous predict"
    )


def test_a_role_that_cannot_be_used_through_the_port_is_refused_to_who_has_it(credentials: Credentials) -> None:
    access = Access(credentials, ROLES, EVERY_ROLE - CONTROL, "connect to the admin port (admin_port)")
    identity = access.identify(b"Bearer 0ps")
    assert may(access, identity, INDEX)
    assert may(access, identity, LOG)
    for method, changes in ((LOAD, False), (LOG, True)):
        with pytest.raises(PermissionDenied, match=r"cannot be used through this port; connect to the admin port"):
            access.permit(identity, method, changes=changes)
        with pytest.raises(PermissionDenied):
            access.permit(access.identify(None), method, changes=changes)


def test_a_port_is_closed_when_nobody_can_call(credentials: Credentials, tmp_path: Path) -> None:
    assert open_access(()).closed
    assert Access(None, ("control",), EVERY_ROLE - CONTROL).closed
    assert not open_access(("observe",)).closed
    assert not Access(credentials, ()).closed
    (tmp_path / "empty.toml").write_text("# nobody yet\n")
    empty = Credentials(tmp_path / "empty.toml")
    empty.start()
    empty.close()
    assert Access(empty, ()).closed


def test_anonymous_callers_share_one_limit(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[anonymous]\nrequests_per_s = 2\n")
    store = Credentials(tmp_path / "a.toml")
    store.start()
    store.close()
    access = Access(store, ("predict",))
    access.identify(None).admit(0.0)
    access.identify(None).admit(0.0)
    with pytest.raises(RateLimited) as caught:
        access.identify(None).admit(0.0)
    assert caught.value.pushback_ms == 500


def test_the_metrics_need_observe() -> None:
    assert NEEDED[METRICS] == OBSERVE
