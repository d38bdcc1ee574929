"""The `frostline serve` command: a flag for every setting of the server, generated from `ServerConfig`."""

# ruff: noqa: PLC0415 - the command line imports this module for its name alone; its flags need pydantic

import os
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from frostline.cli.usage import BadUsage

if TYPE_CHECKING:
    from frostline.cli.settings import Setting


def serve() -> None:
    """Serve a folder of models over gRPC until SIGTERM or Ctrl-C.

    Every setting can also be given in the environment, as FROSTLINE_ and its name in capitals, or in a TOML file.
    """


class ServeCommand(TyperCommand):
    """`frostline serve`, whose flags are made when they are first asked for.

    Typer asks for a subclass here: other commands should not pay for the import of the settings, and Typer has headings
    in a help text only together with rich.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the flags, and `--help`."""
        self.params = _flags()
        return super().get_params(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags in their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for flag in self.get_params(ctx):
            line = flag.get_help_record(ctx)
            if line is not None:
                groups.setdefault(getattr(flag, "rich_help_panel", None) or "Options", []).append(line)
        for heading, lines in groups.items():
            with formatter.section(heading):
                formatter.write_dl(lines)

    def invoke(self, ctx: Any) -> None:
        """Run the server with the flags that were given, then exit with its code."""
        _run(**ctx.params)


def _run(config: Path | None, **flags: Any) -> None:
    import structlog

    from frostline_server.config import ServerConfig
    from frostline_server.errors import ConfigError, StartError

    try:
        settings = ServerConfig.load(config, **flags)
    except ConfigError as error:
        raise BadUsage(str(error)) from error
    if settings.log_format == "json":
        # gRPC's core writes lines of its own, such as one for each TLS handshake that fails, unless this is set before it is
        # imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    try:
        if settings.processes > 1:
            from frostline_server.processes.supervisor import run
        else:
            from frostline_server.main import run
        code = run(settings)
    except StartError as error:
        if settings.log_format != "json":
            raise BadUsage(str(error)) from error
        structlog.get_logger(__name__).critical("cannot start", reason=str(error))
        code = 2
    raise typer.Exit(code)


@cache
def _flags() -> list[Any]:
    from frostline.cli.settings import help_text, settings
    from frostline_server.config import RENAMED

    known = {each.name: each for each in settings()}
    flags = [
        _flag(name, each.type, typer.Option(_written(each), help=help_text(each), rich_help_panel=each.group))
        for name, each in known.items()
    ]
    flags += [
        _flag(old, known[new].type, typer.Option(help=f"Deprecated: use {known[new].flag}.", hidden=True))
        for old, new in RENAMED.items()
    ]
    flags.append(_flag("config", Path, typer.Option(help="TOML file of settings. Flags override it.")))

    def signed(**_: Any) -> None:
        """Nothing: Typer reads the signature."""

    signed.__signature__ = Signature(flags)  # type: ignore[attr-defined]  # a function may have one
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(signed)
    return typer.main.get_command(app).params


def _written(setting: "Setting") -> str:
    """A setting's flag; of what is on unless it is turned off, both."""
    return (
        f"{setting.flag}/--no-{setting.flag[2:]}"
        if setting.type is bool and setting.default == "true"
        else setting.flag
    )


def _flag(name: str, type_: Any, option: Any) -> Parameter:
    # None is a flag that was not given: the environment and the file are asked then.
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[type_ | None, option])
