"""The `frostline open` command: starts the browser on the page of a server."""

# ruff: noqa: PLC0415 - the command line imports this module for its options alone

from typing import Annotated

import typer

from frostline.cli.usage import BadUsage, CannotDo

_TIMEOUT_S = 5.0


def command(
    address: Annotated[
        str, typer.Option(help="The HTTP address of the server: host:port, or a URL that begins with https://.")
    ] = "127.0.0.1:8000",
    *,
    print_only: Annotated[bool, typer.Option("--print", help="Only print the URL of the page.")] = False,
) -> None:
    """Open the page of a server in the browser.

    The page lists the models and shows how they do. A form made from each model's schema tries it.
    """
    url = page_url(address)
    if print_only:
        typer.echo(url)
        return
    _check(url)
    if typer.launch(url) != 0:
        raise CannotDo(f"no browser could be started here; open {url} in one")
    typer.echo(url)


def page_url(address: str) -> str:
    """The URL of the page of the server at `address`.

    Raises:
        BadUsage: The address is neither host:port nor a URL.
    """
    from urllib.parse import urlsplit

    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or "://" in address)
    except ValueError:
        known = None
    if not known:
        raise BadUsage(f"--address {address!r} is no HTTP address; give host:port, or a URL that begins with https://")
    return url.rstrip("/") + "/"


def _check(url: str) -> None:
    """Raise CannotDo unless an HTTP server answers at `url`."""
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPSHandler, ProxyHandler, build_opener

    # Whose certificate it is, is for the browser to say; and a proxy does not reach what is on this machine.
    trusting = ssl._create_unverified_context()  # noqa: S323, SLF001
    try:
        build_opener(ProxyHandler({}), HTTPSHandler(context=trusting)).open(url, timeout=_TIMEOUT_S).close()
    except HTTPError as error:
        error.close()
        if error.code == 404:
            raise CannotDo(
                f"a server answers at {url}, but it has no page; is this the metrics port? The HTTP port is 8000 by default"
            ) from error
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise CannotDo(
            f"nothing answers at {url} ({reason}); start a server with: frostline serve --models models, or give the HTTP "
            "address of another one with --address"
        ) from error
