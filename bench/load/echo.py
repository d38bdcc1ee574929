"""An echo server on the library of the native front end: `python -m bench.load.echo`.

It is the baseline of the transport. It prints its port, and serves until its standard input closes.
"""

import sys
import threading

from pygrpc_native import EVENT_CALL, NativeGrpcFront

ECHO = "/bench.Echo/Echo"


def main() -> None:
    """Serve."""
    front = NativeGrpcFront("127.0.0.1:0", [(ECHO, False)])
    front.start()
    threading.Thread(target=_answer, args=(front,), name="echo").start()
    sys.stdout.write(f"{front.bound_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    front.close()


def _answer(front: NativeGrpcFront) -> None:
    while (events := front.recv_batch(256)) is not None:
        for kind, call, _, payload, _ in events:
            if kind == EVENT_CALL:
                front.respond(call, payload)  # type: ignore[arg-type]  # a call has one


if __name__ == "__main__":
    main()
