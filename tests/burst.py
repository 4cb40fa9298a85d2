"""Many requests in one moment, over plain sockets on loopback: what each was answered."""

import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence

PATIENCE_SECONDS = 120


def burst(
    port: int,
    count: int,
    method: str,
    path: str,
    *,
    headers: Sequence[str] = (),
    body: str = "",
    announced: int | None = None,
    first_byte: bool = False,
) -> Counter[str]:
    """The statuses of `count` equal requests, "none" for those that got no answer. All are sent before any is read.

    `announced`: the length of a body of which only `body` comes. `first_byte`: a stream, whose first byte is its answer;
    all stay open until each has answered.
    """
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        *headers,
        f"Content-Length: {len(body) if announced is None else announced}",
        "Connection: close",
    ]
    request = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
    answers: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(request)
            one.setblocking(False)
            answers[one] = b""
            selector.register(one, selectors.EVENT_READ, one)
        until = time.monotonic() + PATIENCE_SECONDS
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(0.5):
                one = key.data
                try:
                    data = one.recv(65536)
                except OSError:
                    data = b""
                answers[one] += data[:64]
                if not data or first_byte:
                    selector.unregister(one)
    for one in answers:
        one.close()
    return Counter(answer[9:12].decode("ascii", "replace") or "none" for answer in answers.values())
