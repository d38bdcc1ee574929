"""The real Prometheus scrapes a metrics port that has TLS and asks for a token."""

import json
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path

import trustme

from tests.support.servers import TIMEOUT_S, Running, running, until
from tests.support.tokens import TOKENS, write_access_file


def test_prometheus_scrapes_with_a_token_over_tls(tmp_path: Path, tool: Callable[[str], str]) -> None:
    binary = tool("prometheus")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "models").mkdir()
    tls = {"tls_cert": tmp_path / "chain.pem", "tls_key": tmp_path / "key.pem", "metrics_tls": True}
    access = {"access_file": write_access_file(tmp_path / "access.toml"), "metrics_access": "observe"}
    with running(tmp_path / "models", allow_anonymous="none", log_level="error", **tls, **access) as server:
        said = scraped(binary, server, tmp_path, ("observe", "predict"))
    assert said == {"observe": "up", "predict": "server returned HTTP status 403 Forbidden"}


def scraped(binary: str, server: Running, tmp_path: Path, roles: Collection[str]) -> dict[str, str]:
    """What Prometheus says of the server with the token of each role: "up", or what the server refused it with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = f"127.0.0.1:{free.getsockname()[1]}"
    for role in roles:
        (tmp_path / role).write_text(TOKENS[role])
    jobs = [
        {
            "job_name": role,
            "scheme": "https",
            "scrape_interval": "100ms",
            "tls_config": {"ca_file": str(tmp_path / "ca.pem"), "server_name": "localhost"},
            "authorization": {"credentials_file": str(tmp_path / role)},
            "static_configs": [{"targets": [server.metrics_url.removeprefix("https://")]}],
        }
        for role in roles
    ]
    # JSON is YAML.
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": jobs}))
    command = [
        binary,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={api}",
    ]

    def said() -> dict[str, str]:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://{api}/api/v1/targets", timeout=TIMEOUT_S) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
        except OSError:
            # It has not begun.
            return {}
        # On a busy machine a scrape may also be late; there is another one soon.
        found = {
            target["labels"]["job"]: target["lastError"] or target["health"]
            for target in targets
            if target["health"] == "up" or "HTTP status" in target["lastError"]
        }
        return found if len(found) == len(roles) else {}

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            return until(said)
        finally:
            process.terminate()
