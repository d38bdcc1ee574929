"""The attacker's process: it waits for a line, attacks with the lowest priority, and prints what it did as JSON.

With the name `burn` it does not attack but takes as much processor time, which shows what part of a delay comes from
sharing the machine.
"""

import argparse
import json
import os
import resource
import sys
import time

from bench.attacks.catalogue import ATTACKS
from bench.attacks.target import Link, Sent, Target

BURN = "burn"
_SLICE_S = 0.02


def burn(seconds: float, share: float) -> Sent:
    """Take a share of one processor, in slices."""
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        busy_until = now + _SLICE_S * min(share, 1.0)
        while time.monotonic() < busy_until:
            pass
        time.sleep(_SLICE_S * max(0.0, 1.0 - share))
    return Sent("", seconds=time.monotonic() - begin)


def main() -> None:
    """Parse the command line, and do it."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks.attacker", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=[*ATTACKS, BURN])
    parser.add_argument("--address", default="", help="host:port of the server")
    parser.add_argument("--metrics", default=":0", help="host:port of its metrics")
    parser.add_argument("--http", default=":0", help="host:port of its HTTP")
    parser.add_argument("--source", default="", help="address to connect from")
    parser.add_argument("--seconds", type=float, required=True, help="how long it goes on at least")
    parser.add_argument("--mbit", type=float, default=1000.0, help="speed of the link in Mbit/s")
    parser.add_argument("--share", type=float, default=1.0, help="share of a processor to burn")
    options = parser.parse_args()
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = options.address.rpartition(":")
    metrics, http = (
        (host, int(port)) for host, _, port in (each.rpartition(":") for each in (options.metrics, options.http))
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    before_s = sum(os.times()[:4])
    if options.name == BURN:
        sent = burn(options.seconds, options.share)
    else:
        link = Link(options.mbit * 1e6 / 8)
        sent = ATTACKS[options.name].run(
            Target((host, int(port)), options.seconds, link, options.source, metrics, http)
        )
    said = {"sent": sent.json(), "cpu_s": sum(os.times()[:4]) - before_s}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
