"""The logging extension: what is logged, as clients change it while the server runs. Names and values are Triton's."""

import structlog

from frostline.pb import inference_pb2 as pb
from frostline_server import logs
from frostline_server.errors import InvalidInput, Unsupported

Setting = bool | int | str

_log = structlog.get_logger(__name__)

_KINDS = {"bool_param": "boolean", "uint32_param": "uint32", "string_param": "string"}
LOG_KINDS = {
    "log_file": "string_param",
    "log_info": "bool_param",
    "log_warning": "bool_param",
    "log_error": "bool_param",
    "log_verbose_level": "uint32_param",
    "log_format": "string_param",
}
"""The log settings, each with the field of the protocol that has its value."""
LOG_FORMATS = ("default", "ISO8601", "json")
"""Triton's names of formats, and JSON."""


class LogControl:
    """Answers LogSettings, and changes what is logged.

    Args:
        style: how lines look at the start: console or json.
        level: the least severe level logged at the start.
    """

    def __init__(self, style: str, level: str) -> None:
        # Times in our lines are always ISO 8601.
        self._styles = dict(zip(LOG_FORMATS, (style, "console", "json"), strict=True))
        shown = logs.LEVELS[logs.LEVELS.index(level) :]
        self._settings: dict[str, Setting] = {
            "log_file": "",
            "log_info": "info" in shown,
            "log_warning": "warning" in shown,
            "log_error": "error" in shown,
            "log_verbose_level": int("debug" in shown),
            "log_format": "default",
        }
        self._first = dict(self._settings)

    def LogSettings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Change the given settings, all or none, and return all settings.

        Raises:
            InvalidInput: a setting is unknown, or has the wrong type or an invalid value.
            Unsupported: the client asks for a log file, or for a log without errors.
        """
        given = {name: self._checked(name, value) for name, value in request.settings.items()}
        changed = {name: value for name, value in given.items() if value != self._settings[name]}
        if changed:
            self._settings |= changed
            self._show()
            # After the change, so that it is where and how people look for it from now on; no level hides it.
            _log.warning(logs.SETTINGS, changed=changed)
        return pb.LogSettingsResponse(
            settings={
                name: pb.LogSettingsResponse.SettingValue(**{LOG_KINDS[name]: value})  # type: ignore[arg-type]  # the names' own types
                for name, value in self._settings.items()
            }
        )

    def reset(self) -> None:
        """Log again what was logged at the start, whatever clients have changed."""
        if self._settings != self._first:
            self._settings = dict(self._first)
            self._show()
            _log.warning(logs.SETTINGS, changed="all are those of the start again")

    def _show(self) -> None:
        levels = [level for level in ("info", "warning", "error") if self._settings[f"log_{level}"]]
        if self._settings["log_verbose_level"]:
            levels.append("debug")
        logs.show(self._styles[str(self._settings["log_format"])], levels)

    def _checked(self, name: str, value: pb.LogSettingsRequest.SettingValue) -> Setting:
        kind = LOG_KINDS.get(name)
        if kind is None:
            raise InvalidInput(f"unknown log setting '{name}'; the log settings are {', '.join(LOG_KINDS)}")
        if value.WhichOneof("parameter_choice") != kind:
            raise InvalidInput(f"expect {_KINDS[kind]} for '{name}'")
        setting: Setting = getattr(value, kind)
        if name == "log_file" and setting:
            raise Unsupported("log_file: lines always go to standard error; redirect it where you start the server")
        if name == "log_error" and not setting:
            raise Unsupported(
                "log_error: errors cannot be switched off over the network; leave log_error true, and drop the lines that "
                "you do not want where the log is collected"
            )
        if name == "log_format" and setting not in self._styles:
            raise InvalidInput(
                f"invalid argument for log_format, got: {setting}; the formats are {', '.join(self._styles)}"
            )
        return setting
