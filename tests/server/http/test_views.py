"""What the page shows: cards, pictures, live numbers, the caller; promotion and rollback, as a role allows them."""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support import onnx_models as zoo
from tests.support.http_calls import Answer, ask
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.tokens import TOKENS, entry, write_access_file

PNG = b"\x89PNG\r\n\x1a\n..."
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`m` with versions 1 and 2 and pictures, and `broken`, whose file is none."""
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        folder = zoo.write_artifact(root, "m", version)
        (folder / "learning-curves.png").write_bytes(PNG)
        for name in ("network.png", "network.svg"):
            (folder / name).write_bytes(PNG if name.endswith("png") else SVG)
    (root / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    broken = zoo.write_artifact(root, "broken", card=False)
    (broken / "model.onnx").write_bytes(b"no model")
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Running]:
    """A server on which everybody may do everything."""
    with running(models, http=True, require="none") as instance:
        yield instance


@pytest.fixture
def get(server: Running) -> Any:
    """Asks the server."""
    return lambda path, body=None, **more: ask(server.server.http_url, path, body, **more)


def test_the_card_of_a_version_comes_with_its_pictures_each_once(get: Any) -> None:
    told = get("/v2/models/m/versions/2/card").json
    assert (told["name"], told["version"], told["labels"]) == ("m", 2, list(zoo.LABELS))
    assert told["pictures"] == ["learning-curves.png", "network.svg"]


def test_a_version_without_a_card_has_an_empty_one(get: Any) -> None:
    assert get("/v2/models/broken/versions/1/card").json == {"pictures": []}


def test_a_picture_is_sent_as_it_is_and_can_run_no_program(get: Any) -> None:
    answer = get("/v2/models/m/versions/1/pictures/learning-curves.png")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, PNG, "image/png")
    drawn = get("/v2/models/m/versions/1/pictures/network.svg")
    assert (drawn.body, drawn.headers["content-type"]) == (SVG, "image/svg+xml")
    policy = drawn.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


@pytest.mark.parametrize(
    "name",
    ["card.json", "model.onnx", "none.png", "..%2f..%2fsecret.png", ".hidden.png", "%00.png", "a" * 300 + ".png"],
)
def test_nothing_but_a_picture_of_the_version_is_sent(get: Any, models: Path, name: str) -> None:
    (models / "secret.png").write_bytes(PNG)
    (models / "m" / "1" / ".hidden.png").write_bytes(PNG)
    assert get(f"/v2/models/m/versions/1/pictures/{name}").status == 404


def test_a_picture_that_is_a_link_out_of_the_models_folder_is_not_sent(get: Any, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNG)
    (models / "m" / "1" / "linked.png").symlink_to(outside)
    assert get("/v2/models/m/versions/1/pictures/linked.png").status == 404


@pytest.mark.parametrize("version", ["3", "stable", "-1", "1e3", "9" * 30, "latest"])
def test_a_version_that_is_not_there_is_not_found(get: Any, version: str) -> None:
    answer = get(f"/v2/models/m/versions/{version}/card")
    assert (answer.status, answer.headers["frostline-error"]) == (404, "model_not_found")


def test_live_numbers_count_what_was_answered(get: Any) -> None:
    def version(number: str) -> Mapping[str, Any]:
        told: Mapping[str, Any] = {each["version"]: each for each in get("/v2/models/m/live").json["versions"]}
        found: Mapping[str, Any] = told[number]
        return found

    before = version("2")
    data = zoo.rows(3, 4).ravel().tolist()
    body = {
        "inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": data}],
        "outputs": [{"name": "argmax"}],
    }
    assert get("/v2/models/m/versions/2/infer", body).status == 200
    assert get("/v2/models/m/versions/2/infer", {"inputs": []}).status == 400
    after = version("2")
    assert (after["state"], after["device"], after["verified"]) == ("READY", "cpu", True)
    assert after["requests"] - before["requests"] == 1
    assert after["failed"] - before["failed"] == 1
    assert after["rows"] - before["rows"] == 3
    assert sum(after["predictions"].values()) - sum(before["predictions"].values()) == 3
    assert after["latency_s"]["counts"][-1] == after["requests"]
    assert len(after["batch_rows"]["counts"]) == len(after["batch_rows"]["bounds"]) + 1


def test_a_failed_version_has_its_reason_among_the_live_numbers(get: Any) -> None:
    [version] = get("/v2/models/broken/live").json["versions"]
    assert version["state"] == "FAILED"
    assert "model.onnx" in version["reason"]


def test_the_live_numbers_of_an_unknown_model_are_not_found(get: Any) -> None:
    assert get("/v2/models/nope/live").status == 404


def test_promotion_canary_shadow_and_rollback_change_the_traffic(models: Path, tmp_path: Path) -> None:
    for version in (1, 2):
        zoo.write_artifact(tmp_path, "m", version)
    with running(tmp_path, http=True, poll_s=0.1) as instance:
        url = instance.server.http_url
        assert ask(url, "/v2/models/m/promote", {"version": 1}).json == {"rollout": "version 1 is stable"}
        tried = ask(url, "/v2/models/m/promote", {"version": 2, "canary": 25, "shadow": True}).json["rollout"]
        assert tried == (
            "version 1 is stable, version 2 is canary with 25 % of the traffic, version 2 gets a copy of the traffic"
        )
        instance.server.reconciler.reconcile()
        traffic = ask(url, "/v2/models/m/live").json["traffic"]
        assert traffic["labels"] == {"stable": 1, "canary": 2}
        assert traffic["percent"] == {"1": 75.0, "2": 25.0}
        assert traffic["shadow"] == 2
        assert ask(url, "/v2/models/m/versions/canary/card").json["version"] == 2
        assert ask(url, "/v2/models/m/rollback", b"").json == {"rollout": "version 1 is stable"}
        # Without a body: what is on trial, or the newest.
        assert ask(url, "/v2/models/m/promote", b"").json == {"rollout": "version 2 is stable"}


def test_a_canary_gets_a_rule_and_a_change_after_anothers_is_refused(tmp_path: Path) -> None:
    for version in (1, 2):
        zoo.write_artifact(tmp_path, "m", version)
    with running(tmp_path, http=True, poll_s=0.1) as instance:
        url = instance.server.http_url
        # Without a rollout the newest is live.
        assert ask(url, "/v2/models/m/promote", {"version": 1, "expected": 2}).status == 200
        rule = {"version": 2, "canary": 25, "take_back": {"errors": 0.01}}
        tried = ask(url, "/v2/models/m/promote", rule).json["rollout"]
        assert tried.endswith("the canary is taken back if over 1 % more of its requests fail")
        for path, body in (("promote", {"version": 2, "expected": 2}), ("rollback", {"expected": 2})):
            answer = ask(url, f"/v2/models/m/{path}", body)
            assert (answer.status, answer.headers["frostline-error"]) == (409, "rollout_changed")
            assert "version 1 is live by now, and not version 2" in answer.error
        refused = ask(url, "/v2/models/m/promote", {"version": 2, "canary": 25, "take_back": {"latency": 0}})
        assert (refused.status, "expected a factor from 1 to 1000" in refused.error) == (409, True)
        assert ask(url, "/v2/models/m/rollback", {"expected": 1}).json == {"rollout": "version 1 is stable"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/m/promote", {"version": 9}, 409, "there is no version 9; there are: 1, 2"),
        ("/v2/models/m/promote", {"version": 2, "canary": 5}, 409, "no version is stable yet"),
        ("/v2/models/m/promote", {"version": "2"}, 400, "version: a whole number is expected"),
        ("/v2/models/m/promote", {"canary": 100}, 400, "canary"),
        ("/v2/models/m/promote", {"verison": 2}, 400, "verison"),
        ("/v2/models/m/promote", b"{", 400, "no JSON"),
        ("/v2/models/nope/promote", {}, 404, "nope"),
        ("/v2/models/..%2f/promote", {}, 404, "there is nothing at"),
    ],
)
def test_a_promotion_that_cannot_be_says_why_and_changes_nothing(
    get: Any, models: Path, path: str, body: Any, status: int, words: str
) -> None:
    answer: Answer = get(path, body)
    assert (answer.status, words in answer.error) == (status, True), answer.body
    assert not (models / "m" / "rollout.json").exists()


def test_a_version_that_is_known_to_have_failed_is_not_promoted(tmp_path: Path) -> None:
    zoo.write_artifact(tmp_path, "m", 1)
    (zoo.write_artifact(tmp_path, "m", 2, card=False) / "model.onnx").write_bytes(b"no model")
    (tmp_path / "m" / "config.pbtxt").write_text("version_policy { all {} }")
    with running(tmp_path, http=True, require="none") as instance:
        answers = [
            ask(instance.server.http_url, "/v2/models/m/promote", body)
            for body in ({"version": 1}, {"version": 2}, {"version": 2, "canary": 10}, {"shadow": True})
        ]
    assert [answer.status for answer in answers] == [200, 409, 409, 409]
    assert all("version 2 failed to load" in answer.error for answer in answers[1:])


def test_what_a_link_out_of_the_models_folder_leads_to_is_neither_told_nor_changed(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    zoo.write_artifact(models, "m", 1)
    zoo.write_artifact(elsewhere, "other", 1)
    zoo.write_artifact(elsewhere, "other", 7)
    (elsewhere / "other" / "1" / "plan.png").write_bytes(PNG)
    (models / "evil").symlink_to(elsewhere / "other")
    (models / "m" / "2").symlink_to(elsewhere / "other" / "1")
    with running(models, http=True, require="none") as server:
        address = server.server.http_url
        for version in (1, 7, 9):
            refused = ask(address, "/v2/models/evil/promote", {"version": version})
            assert refused.status == 409
            assert "outside the models folder" in refused.json["error"]
        assert ask(address, "/v2/models/m/versions/2/card").json == {"pictures": []}
    assert sorted(path.name for path in (elsewhere / "other").iterdir()) == ["1", "7"]


def test_a_card_nested_too_deep_to_be_read_is_none(models: Path, get: Any) -> None:
    (models / "broken" / "1" / "card.json").write_text("[" * 100_000)
    assert get("/v2/models/broken/versions/1/card").json == {"pictures": []}


def test_a_folder_that_cannot_be_written_to_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.write_artifact(tmp_path, "m")

    def refused(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(30, "Read-only file system", str(self))

    with running(tmp_path, http=True) as instance:
        monkeypatch.setattr(Path, "open", refused)
        answer = ask(instance.server.http_url, "/v2/models/m/promote", {"version": 1})
        monkeypatch.undo()
    assert answer.status == 409
    assert "Read-only file system" in answer.error


# Who may do what


@pytest.fixture(scope="module")
def asking(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that asks who calls; `slow` may observe once in a thousand seconds."""
    limited = entry("slow", "s-" + "4" * 30, "observe", requests_per_s=0.001, burst=1)
    file = write_access_file(tmp_path_factory.mktemp("access") / "access.toml", limited)
    with running(models, http=True, require="none", allow_anonymous="none", access_file=file) as instance:
        yield instance.server.http_url


def shown(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("path", "body", "roles"),
    [
        ("/v2/models/m/versions/1/card", None, {"predict", "observe"}),
        ("/v2/models/m/versions/1/pictures/network.svg", None, {"predict", "observe"}),
        ("/v2/models/m/live", None, {"observe"}),
        ("/v2/models/m/rollback", b"", {"control"}),
        ("/v2/models/m/promote", {"version": 9}, {"control"}),
    ],
)
def test_each_view_needs_its_role(asking: str, path: str, body: Any, roles: set[str]) -> None:
    assert ask(asking, path, body).status == 401
    assert ask(asking, path, body, headers=shown("x" * 32)).status == 401
    let_in = {
        role for role, token in TOKENS.items() if ask(asking, path, body, headers=shown(token)).status in (200, 409)
    }
    refused = {role for role, token in TOKENS.items() if ask(asking, path, body, headers=shown(token)).status == 403}
    assert (let_in, refused) == (roles, set(TOKENS) - roles)


def test_two_credentials_are_those_of_nobody(asking: str) -> None:
    both = [("Authorization", f"Bearer {TOKENS['predict']}"), ("Authorization", f"Bearer {TOKENS['control']}")]
    with socket.create_connection(("127.0.0.1", int(asking.rpartition(":")[2])), timeout=TIMEOUT_S) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in both)
        client.sendall(f"GET /v2/me HTTP/1.1\r\nHost: localhost\r\n{head}Connection: close\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_path_says_which_methods_it_has(get: Any) -> None:
    answer = get("/v2/models/m/promote")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_the_status_says_why_the_server_is_not_ready_and_where_grpc_is(models: Path, get: Any, server: Running) -> None:
    assert get("/v2/status").json == {
        "ready": True,
        "reason": "",
        "grpc": server.address,
        "model_control": False,
    }
    with running(models, http=True) as instance:  # which requires all models, also the broken one
        told = ask(instance.server.http_url, "/v2/status")
    assert (told.status, told.json["ready"]) == (200, False)
    assert "broken" in told.json["reason"]


def test_the_page_and_who_one_is_are_open_to_everybody(asking: str) -> None:
    assert ask(asking, "/").status == 200
    assert ask(asking, "/v2/me").json == {"name": "anonymous", "credential": "none", "roles": []}
    known = ask(asking, "/v2/me", headers=shown(TOKENS["observe"])).json
    assert known == {"name": "observe", "credential": "token", "roles": ["observe"]}


def test_whoever_asks_more_often_than_agreed_is_told_so(asking: str) -> None:
    header = shown("s-" + "4" * 30)
    statuses = [ask(asking, "/v2/models/m/live", headers=header).status for _ in range(2)]
    assert statuses == [200, 429]


def test_promotions_are_lines_of_the_audit_log_also_if_they_are_refused(asking: str) -> None:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        ask(asking, "/v2/models/m/promote", {"version": 9}, headers=shown(TOKENS["control"]))
        ask(asking, "/v2/models/m/promote", {"version": "9"}, headers=shown(TOKENS["control"]))
        ask(asking, "/v2/models/m/promote", {"version": 9}, headers=shown(TOKENS["predict"]))
        ask(asking, "/v2/models/m/rollback", b"")
    audited = [line for line in lines if line["event"] == "audit"]
    assert [(line["identity"], line["method"], line["model"], line["status"]) for line in audited] == [
        ("control", "Promote", "m", "FAILED_PRECONDITION"),
        ("control", "Promote", "m", "INVALID_ARGUMENT"),
        ("predict", "Promote", "m", "PERMISSION_DENIED"),
        ("anonymous", "Rollback", "m", "UNAUTHENTICATED"),
    ]


def test_what_strangers_are_refused_fills_no_disk(asking: str) -> None:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        for _ in range(60):
            ask(asking, "/v2/models/m/promote", {"version": 9}, headers=shown("s-" + "0" * 30))
    audited = [line for line in lines if line["event"] == "audit"]
    assert 1 <= len(audited) < 30
    assert {line["status"] for line in audited} == {"UNAUTHENTICATED"}


def test_with_an_admin_port_nobody_controls_over_http(models: Path) -> None:
    with running(models, http=True, require="none", admin_port=0) as instance:
        url = instance.server.http_url
        assert ask(url, "/v2/me").json["roles"] == ["predict", "observe"]
        answer = ask(url, "/v2/models/m/rollback", b"")
    assert answer.status == 403
    assert "admin port" in answer.error


# The page's files


def test_the_page_may_load_nothing_from_elsewhere_and_be_shown_nowhere_else(get: Any) -> None:
    page = get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_file_that_has_not_changed_is_not_sent_again(get: Any) -> None:
    tag = get("/page/index.html").headers["etag"]
    again = get("/page/index.html", headers={"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    assert get("/page/nope.js").status == 404
