"""The replies of a batch: the callbacks of its entries, called once for those that share one."""

import structlog

from frostline_server.batching.entry import Entry, Reply
from frostline_server.errors import RunFailed

_log = structlog.get_logger(__name__)


def hand_out(entries: list[Entry]) -> None:
    """Call the replies of finished entries, once for those that share one: a front end is woken once a batch."""
    first = entries[0].reply
    if all([entry.reply is first for entry in entries]):
        _hand_over(first, entries)
        return
    groups: dict[Reply, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.reply, []).append(entry)
    for reply, group in groups.items():
        _hand_over(reply, group)


def _hand_over(reply: Reply, entries: list[Entry]) -> None:
    try:
        reply(entries)
    except Exception as error:  # noqa: BLE001  one front end's defect must not end the device thread for all
        _log.exception("a reply failed", requests=len(entries))
        # Nobody knows how far it came; an answer that may not have left does not count as one.
        for entry in entries:
            entry.error = entry.error or RunFailed(f"the answer could not be sent: {error}")
