"""The catalogue of attacks: each with what it does, and the weakness that it tries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.attacks import bulk, calls, floods, messages, rest, scrapes, slow
from bench.attacks.target import Sent, Target


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        what: it does, in a few words.
        run: does it.
        tls: whether the server has TLS.
        spare_mib: by how much the server's address space may grow, in MiB; 0 for no limit.
        spare_files: how many files more the server may open; 0 for no limit. New connections may then be refused.
    """

    what: str
    run: Callable[[Target], Sent]
    tls: bool = False
    spare_mib: int = 0
    spare_files: int = 0


ATTACKS: Mapping[str, Attack] = {
    "idle": Attack("2 000 half-open and idle connections", slow.idle),
    "idle-many": Attack("the same, from 2 000 addresses", slow.idle_of_many),
    "open-streams": Attack("20 000 open streams without a message", slow.open_streams),
    "watchers": Attack("20 000 calls that watch the server's health", slow.watchers),
    "slow-messages": Attack("slowloris: 200 calls, a byte of a message at a time", slow.slow_messages),
    "slow-headers": Attack("slowloris: 200 header blocks, a byte at a time", slow.slow_headers),
    "handshakes": Attack("5 000 TLS handshakes that never finish", slow.handshakes, tls=True),
    "resets": Attack("100 000 rapid resets (CVE-2023-44487)", floods.rapid_resets),
    "resets-many": Attack("80 000 rapid resets of whole requests, 80 connections", floods.rapid_resets_of_many),
    "resets-streams": Attack("rapid resets of ModelStreamInfer", floods.rapid_resets_of_streams),
    "made-resets": Attack("MadeYouReset (CVE-2025-8671)", floods.made_resets),
    "malformed": Attack("malformed calls that the server resets (CVE-2019-9514)", floods.malformed_calls),
    "continuation": Attack("CONTINUATION without end (CVE-2024-27316)", floods.continuations),
    "continuation-empty": Attack("empty CONTINUATION without end", floods.empty_continuations),
    "ping": Attack("PING flood", floods.pings),
    "ping-unread": Attack("PING flood, answers unread (CVE-2019-9512)", floods.unread_pings),
    "settings": Attack("SETTINGS flood", floods.settings),
    "settings-unread": Attack("SETTINGS flood, answers unread (CVE-2019-9515)", floods.unread_settings),
    "priority": Attack("PRIORITY flood in circles (CVE-2019-9513)", floods.priorities),
    "window-update": Attack("WINDOW_UPDATE flood", floods.window_updates),
    "empty-data": Attack("empty DATA flood (CVE-2019-9518)", floods.empty_data),
    "padding": Attack("DATA that is only padding", floods.padding),
    "unknown-frames": Attack("flood of frames of no known type", floods.unknown_frames),
    "large-headers": Attack("header lists of 1 MiB", floods.large_header_lists),
    "empty-headers": Attack("header fields without a byte (CVE-2019-9516)", floods.empty_headers),
    "hpack-bomb": Attack("HPACK bombs: 19 KB that mean 60 MB (CVE-2016-6581)", floods.hpack_bombs),
    "empty-messages": Attack("empty messages in a stream, answers unread", floods.empty_messages),
    "no-message": Attack("20 000 calls that end before their message", floods.calls_without_message),
    "unknown-methods": Attack("calls of methods that do not exist", floods.unknown_methods),
    "half-sent": Attack("40 half-sent messages of 60 MB", bulk.half_sent),
    "whole": Attack("100 whole messages of 64 MiB", bulk.whole),
    "gzip": Attack("gzip bombs: 611 KB that mean 600 MiB", bulk.gzip_bombs),
    "deflate": Attack("deflate bombs", bulk.deflate_bombs),
    "gzip-streams": Attack("gzip bombs in ModelStreamInfer", bulk.streamed_bombs),
    "announced": Attack("5 bytes that announce 4 GiB, 200 times", bulk.announced, spare_mib=8192),
    "reserved": Attack("5 bytes that announce 64 MiB and less, until nothing is left", bulk.reserved),
    "unread": Attack("24 answers of 64 MiB, windows of 0", bulk.unread),
    "unread-sockets": Attack("24 answers of 64 MiB, socket unread (CVE-2019-9517)", bulk.unread_sockets),
    "dribble": Attack("24 answers of 64 MiB, read byte by byte (CVE-2019-9511)", bulk.dribbled),
    "unread-streams": Attack("8 streams of 64 MiB answers, unread, three times", bulk.unread_streams),
    "burst": Attack("4 000 honest calls at once, over and over", calls.burst),
    "cancels": Attack("10 000 cancelled calls", calls.cancels),
    "empty-inputs": Attack("31 million empty inputs in a message of 62 MB", messages.empty_inputs_raw),
    "empty-inputs-gzip": Attack("the same as 60 KB of gzip", messages.empty_inputs_packed),
    "parameters": Attack("31 million empty parameters in a message", messages.parameters),
    "strings": Attack("11 million strings in a message", messages.strings),
    "elements": Attack("62 million typed elements in a message", messages.elements),
    "refused": Attack("refused requests of 60 MiB, one after the other", messages.refused),
    "shapes": Attack("requests whose shapes are no shapes", messages.shapes),
    "stream-hang-ups": Attack("streams that hang up with 20 answers of 64 MiB unread", messages.hang_ups),
    "long-runs": Attack("brief runs, and then one of seconds", messages.long_runs),
    "long-runs-streams": Attack("the same in ModelStreamInfer", messages.long_runs_of_streams),
    "log-settings": Attack("LogSettings without the role for it", messages.log_settings),
    "metrics-idle": Attack("1 000 idle connections to the metrics port", scrapes.idle),
    "metrics-dripping": Attack("1 000 scrapes whose headers never end", scrapes.dripping),
    "metrics-hang-ups": Attack("scrapes by clients that do not wait", scrapes.hang_ups),
    "http-idle": Attack("1 000 idle connections to the HTTP port", rest.idle),
    "http-slow-heads": Attack("slowloris: 1 000 heads, a byte at a time", rest.slow_heads),
    "http-slow-bodies": Attack("R.U.D.Y.: 1 000 bodies, a byte at a time", rest.slow_bodies),
    "http-handshakes": Attack("1 000 TLS handshakes that never finish", rest.handshakes, tls=True),
    "http-storm": Attack("new connections, as many as can be made", rest.storm),
    "http-hang-ups": Attack("requests by clients that do not wait", rest.hang_ups),
    "http-pipelined": Attack("requests in one another's wake, answers unread", rest.pipelined),
    "http-announced": Attack("heads that announce 60 MB, 200 times", rest.announced),
    "http-half-sent": Attack("40 half-sent bodies of 60 MB", rest.half_sent),
    "http-whole": Attack("100 whole bodies of 60 MB", rest.whole),
    "http-chunks": Attack("bodies without end, in chunks", rest.chunks),
    "http-tiny-chunks": Attack("bodies in chunks of a byte", rest.tiny_chunks),
    "http-gzip": Attack("gzip bombs: 61 KB that mean 60 MB", rest.gzip_bombs),
    "http-deflate": Attack("deflate bombs", rest.deflate_bombs),
    "http-nested": Attack("JSON of 30 million brackets", rest.nested),
    "http-unread": Attack("24 answers of 64 MiB, unread", rest.unread),
    "http-malformed": Attack("heads that contradict themselves", rest.malformed),
    "http-descriptors": Attack("idle connections until no descriptor is left", rest.idle, spare_files=100),
    "descriptors": Attack("idle connections until no descriptor is left", slow.idle, spare_files=100),
}
