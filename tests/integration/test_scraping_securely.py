"""The real Prometheus scrapes a metrics port that has TLS and asks for a token."""

import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from tests.support.servers import TIMEOUT_S, Running, running
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
        assert scraped(binary, server, tmp_path, TOKENS["observe"]) == "1"
        assert scraped(binary, server, tmp_path, TOKENS["predict"]) == "0"


def scraped(binary: str, server: Running, tmp_path: Path, shown: str) -> str:
    """What Prometheus says of the server: whether it is up."""
    token = tmp_path / "token"
    token.write_text(shown)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = f"127.0.0.1:{free.getsockname()[1]}"
    job = {
        "job_name": "frostline",
        "scheme": "https",
        "scrape_interval": "100ms",
        "tls_config": {"ca_file": str(tmp_path / "ca.pem"), "server_name": "localhost"},
        "authorization": {"credentials_file": str(token)},
        "static_configs": [{"targets": [server.metrics_url.removeprefix("https://")]}],
    }
    # JSON is YAML.
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
    command = [
        binary,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/{shown}",
        f"--web.listen-address={api}",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            waited = threading.Event()
            result: list[Any] = []
            for _ in range(300):
                assert process.poll() is None, (tmp_path / "log").read_text()
                try:
                    with urllib.request.urlopen(f"http://{api}/api/v1/query?query=up", timeout=TIMEOUT_S) as answer:
                        result = json.load(answer)["data"]["result"]
                except OSError:
                    result = []
                if result:
                    break
                waited.wait(0.1)
            return str(result[0]["value"][1])
        finally:
            process.terminate()
