"""The promotion of a shadow that agrees: it follows the comparison in a server's metrics, then promotes or gives up."""

# ruff: noqa: PLC0415 - rich and Prometheus's parser are slow to load, and only this command needs them

import ipaddress
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from frostline.cli.connection import token
from frostline.cli.usage import BadUsage, CannotDo

if TYPE_CHECKING:
    from frostline_server.repository.rollout import Rollout

_PERIOD_S = 1.0
_SCRAPE_S = 10.0


@dataclass(frozen=True)
class Wanted:
    """What a shadow must show before it is promoted.

    Attributes:
        share: Of the compared rows, 0 to 1, that it must answer like the stable version.
        rows: How many must be compared.
        within_s: How long it may take, in seconds.
    """

    share: float
    rows: int
    within_s: float


@dataclass(frozen=True)
class Seen:
    """What a server has compared since the version became its shadow.

    Attributes:
        rows: Compared rows, and those on which the shadow failed.
        different: Those that it answers otherwise, and those on which it failed.
    """

    rows: int
    different: int

    @property
    def told(self) -> str:
        """It in words."""
        share = 1 - self.different / self.rows if self.rows else 0.0
        return f"{share:.2%} of {self.rows} rows agree" if self.rows else "no rows are compared yet"


def decide(seen: Seen, wanted: Wanted) -> bool | None:
    """Whether to promote; None while it is too early to say.

    It is given up as soon as the wanted share cannot be reached any more in the wanted number of rows.
    """
    allowed = (1 - wanted.share) * max(seen.rows, wanted.rows)
    # Rounding must not turn an allowed row into one too many.
    if seen.different > allowed + 1e-9:
        return False
    return True if seen.rows >= wanted.rows else None


def counted(page: str, model: str, version: int, live: int) -> Seen | None:
    """What a page of metrics says of a shadow; None where it is compared with nothing.

    Args:
        page: The metrics, in Prometheus's text format.
        model: The model's name.
        version: The shadow.
        live: The stable version.
    """
    from prometheus_client.parser import text_string_to_metric_families

    labels = {"model": model, "version": str(version), "live_version": str(live)}
    found = {
        sample.name: int(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels == labels
    }
    rows, different, failed = (
        found.get(f"frostline_shadow_{name}_total") for name in ("rows", "disagreements", "failed_rows")
    )
    if rows is None or different is None or failed is None:
        return None
    return Seen(rows + failed, different + failed)


def scraper(url: str, token_file: Path | None) -> Callable[[], str]:
    """Return what fetches a page of metrics; it sends a token only over TLS, or to this machine, and nowhere else.

    Raises:
        BadUsage: The address is none, or the token cannot be read or sent.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise BadUsage(f"--metrics {url}: expected an address such as http://localhost:8002/metrics")
    local = _is_local(address.hostname)
    try:
        secret = token(token_file)
    except OSError as error:
        raise BadUsage(f"cannot read {error.filename}: {error.strerror}") from error
    request = urllib.request.Request(url)  # noqa: S310  the scheme was checked
    if secret and (local or address.scheme == "https"):
        if not (secret.isascii() and secret.isprintable()):
            raise BadUsage("the token has characters that no token has; a token is one line of ASCII")
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    # The proxy of the environment does not reach this machine, and would be shown the token.
    proxies = [urllib.request.ProxyHandler({})] if local else []
    opener = urllib.request.build_opener(*proxies)

    def fetch() -> str:
        with opener.open(request, timeout=_SCRAPE_S) as response:
            text: str = response.read().decode()
        return text

    return fetch


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
        return f"{error}; they need a token (--token-file), which is sent only over https or to this machine"
    return str(getattr(error, "reason", error))


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def promote_when_agreeing(
    folder: Path,
    version: int | None,
    wanted: Wanted,
    fetch: Callable[[], str],
    *,
    clock: Callable[[], float] = time.monotonic,
    rest: Callable[[float], None] = time.sleep,
) -> bool:
    """Follow the shadow of the model in `folder`, and promote it once it agrees.

    Args:
        folder: The model's folder.
        version: The version that must be the shadow; None for any.
        wanted: What it must show.
        fetch: Gives a page of metrics.
        clock: Monotonic time in seconds.
        rest: Waits so many seconds.

    Returns:
        Whether it was promoted; otherwise the test goes on.

    Raises:
        BadUsage: The version is no shadow.
        CannotDo: The rollout was changed meanwhile, or the server cannot be asked.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    name, rollout = folder.name, _read(folder)
    if rollout is None or rollout.shadow is None:
        raise BadUsage(f"{name} has no shadow, so nothing is compared; begin with: frostline promote {name} --shadow")
    if version not in (None, rollout.shadow):
        raise BadUsage(f"version {version} is not the shadow of {name}, which is version {rollout.shadow}")
    shadow, live = rollout.shadow, rollout.labels["stable"]
    console = Console(highlight=False)
    console.print(
        f"{name}: waiting until version {shadow} answers {wanted.share:.4%} of {wanted.rows} rows like version {live}",
        soft_wrap=True,
    )
    until_s, seen, asked = clock() + wanted.within_s, None, False
    columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} rows"), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=wanted.rows)
        while True:
            if (now := _read(folder)) != rollout:
                told = "it has no rollout" if now is None else now.told
                raise CannotDo(f"{name}: somebody else has changed the rollout: {told}; nothing was promoted")
            try:
                seen = counted(fetch(), name, shadow, live)
            except (OSError, ValueError) as error:
                # A server may be restarted meanwhile, but it must have been there.
                if not asked:
                    raise CannotDo(f"cannot read the server's metrics: {_why(error)}") from error
            else:
                asked = True
            verdict = None if seen is None else decide(seen, wanted)
            progress.update(task, completed=seen.rows if seen else 0, description=seen.told if seen else "")
            if verdict is not None or clock() >= until_s:
                break
            rest(min(_PERIOD_S, max(0.0, until_s - clock())))
    told = "the server compares nothing; `frostline models` says why" if seen is None else seen.told
    if verdict:
        typer.echo(f"{name}: {told}; {_promoted(folder, rollout).told}")
        return True
    why = "the time is over" if verdict is None else f"{wanted.share:.2%} are wanted"
    reason = f"{told}, and {why}"
    _given_up(folder, rollout, reason)
    typer.echo(f"{name}: given up: {reason}; the test of version {shadow} goes on")
    return False


def _read(folder: Path) -> "Rollout | None":
    from frostline_server.errors import ConfigError
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    try:
        return rollouts.read(folder, FileReader(folder))
    except ConfigError as error:
        raise BadUsage(f"{folder.name}: {error}") from error


def _promoted(folder: Path, judged: "Rollout") -> "Rollout":
    from frostline_server.repository.rollout_steps import promote

    return _changed(folder, judged, lambda shadow: promote(judged, shadow))


def _given_up(folder: Path, judged: "Rollout", reason: str) -> None:
    """Note it in the rollout, so that every server has it in its audit log and its metrics."""
    from frostline_server.repository.rollout_steps import give_up

    at = datetime.now(UTC).isoformat(timespec="seconds")
    _changed(folder, judged, lambda _: give_up(judged, reason, at))


def _changed(folder: Path, judged: "Rollout", after: Callable[[int], "Rollout"]) -> "Rollout":
    """Replace the rollout that was judged; `after` gives the next one, from the number of the shadow."""
    from frostline_server.errors import ConfigError
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    def step(before: "Rollout | None", _: list[int]) -> "Rollout":
        if before != judged or judged.shadow is None:
            raise rollouts.RolloutChanged("somebody else has changed the rollout; nothing was promoted")
        return after(judged.shadow)

    try:
        return rollouts.change(folder, FileReader(folder), step)
    except ConfigError as error:
        raise CannotDo(f"{folder.name}: {error}") from error
