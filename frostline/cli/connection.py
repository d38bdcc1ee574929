"""The options with which a command reaches a server, and the client that they make."""

# ruff: noqa: PLC0415 - gRPC is slow to load, and the command line imports this module for its options alone

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frostline.cli.usage import BadUsage

if TYPE_CHECKING:
    from frostline.client.connection import Client

TOKEN = "FROSTLINE_TOKEN"  # noqa: S105  the variable's name
"""The environment variable with the token itself, for where there is no file. No flag has it: others see a command's flags."""

Server = Annotated[
    str,
    typer.Option(
        help="The address of the server, host:port, or unix:PATH. For all servers of a name, dns:///NAME:PORT.",
        envvar="FROSTLINE_SERVER",
    ),
]
Tls = Annotated[
    bool, typer.Option("--tls", help="Turn TLS on, and trust the usual authorities.", envvar="FROSTLINE_TLS")
]
TlsCa = Annotated[
    Path | None, typer.Option(help="A PEM file of trusted certificates. Turns TLS on.", envvar="FROSTLINE_TLS_CA")
]
ServerName = Annotated[
    str,
    typer.Option(
        help="The name in the server's certificate, if it is not the one in the address.",
        envvar="FROSTLINE_SERVER_NAME",
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(help="A PEM file with the certificate of this client. Needs --key.", envvar="FROSTLINE_CERTIFICATE"),
]
Key = Annotated[
    Path | None, typer.Option(help="A PEM file with the private key of --certificate.", envvar="FROSTLINE_KEY")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"A file with the bearer token to send. By default, the token is in the variable {TOKEN}, if it is set.",
        envvar="FROSTLINE_TOKEN_FILE",
    ),
]
InsecureToken = Annotated[
    bool, typer.Option("--insecure-token", help="Allow to send the token over a network without TLS.")
]
TimeoutS = Annotated[float, typer.Option(min=0.001, help="The time limit of each call, in seconds.")]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a server, as the options of a command say it.

    Attributes:
        server: The address.
        tls: Whether to speak TLS.
        tls_ca: A PEM file of trusted certificates; turns TLS on.
        server_name: The name in the server's certificate; empty for the one in the address.
        certificate: A PEM file with the certificate of this client.
        key: A PEM file with its private key.
        token_file: A file with the token; None for the one in the environment.
        insecure_token: Whether the token may go over a network in plain text.
        timeout_s: How long a call may take.
    """

    server: str
    tls: bool
    tls_ca: Path | None
    server_name: str
    certificate: Path | None
    key: Path | None
    token_file: Path | None
    insecure_token: bool
    timeout_s: float

    def client(self) -> "Client":
        """Makes the client.

        Raises:
            BadUsage: The options make no sense, or a file cannot be read.
        """
        # The user sees one sentence that says what is wrong; gRPC's own log lines would hide it.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from frostline.client.connection import connect

        try:
            return connect(
                self.server,
                timeout_s=self.timeout_s,
                tls=self.tls_ca or self.tls,
                server_name=self.server_name,
                certificate=self.certificate,
                key=self.key,
                token=token(self.token_file),
                insecure_token=self.insecure_token,
            )
        except ValueError as error:
            raise BadUsage(str(error)) from error
        except OSError as error:
            raise BadUsage(f"cannot read {error.filename}: {error.strerror}") from error


def token(file: Path | None) -> str | None:
    """The token in a file, or without one that in the environment; None if there is none.

    Raises:
        OSError: The file cannot be read.
    """
    # What is not ASCII is no token, and refused as such.
    text = os.environ.get(TOKEN, "") if file is None else file.read_text(encoding="ascii", errors="replace")
    return text.strip() or (None if file is None else "")
