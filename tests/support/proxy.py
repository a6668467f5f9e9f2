"""A TCP proxy in front of a real S3 server that behaves like an overloaded one: it refuses or cuts off requests."""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["slow_down", "reset", "lost_answer"]
"""`slow_down`: the proxy answers 503. `reset`: the connection is reset in the middle of an upload. `lost_answer`: the
upload arrives, but the connection is reset before the client gets the answer."""
_BODY = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
_BODY += b"</Message></Error>"
_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s, with which closing a socket sends RST


def error_answer(status: int, code: str, message: str = "", method: str = "GET") -> bytes:
    """An HTTP answer with an error of S3, as a store gives it to a request of this method."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    shown = "" if method == "HEAD" else body
    lines = (
        f"HTTP/1.1 {status} Error",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", shown]).encode()


def ok_answer() -> bytes:
    """An HTTP answer of a store that has written an object."""
    return b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


class Proxy:
    """A proxy on its own loopback port. During `failing`, it applies one kind of fault to requests.

    Every request gets its own connection, and its headers are passed on unchanged except Connection. So signatures,
    which cover the Host header of the client, stay valid.
    """

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fault: Fault | None = None
        self.every = 1
        """Interval of faults: a fault is applied to the first of every `every` requests that it can be applied to."""
        self.hits: Counter[str] = Counter()
        self.rule: Callable[[str, str], bytes | None] = lambda method, target: None
        """Returns the answer that the proxy gives to a request instead of passing it on; None: it passes it on."""
        self.requests: list[tuple[str, str]] = []
        """(method, path and query) of all requests."""
        self.headers: list[dict[str, str]] = []
        """The headers of all requests, with names in lower case."""
        self.bytes_per_second: float | None = None
        """Rate of all connections and both directions together; None: no limit."""
        self._free_at = 0.0
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # `close` alone does not wake a thread that waits in `accept`.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @contextmanager
    def failing(self, fault: Fault, every: int = 1) -> Iterator[None]:
        """Applies a fault to every `every`-th request during a `with` block."""
        self.fault, self.every = fault, every
        try:
            yield
        finally:
            self.fault = None

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # either side may close at any time
            head, rest = _read_head(client)
            if not head:
                return
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            self.requests.append((method, target))
            lines = (line.partition(":") for line in head.decode().splitlines()[1:] if line)
            self.headers.append({name.lower(): value.strip() for name, _, value in lines})
            if (given := self.rule(method, target)) is not None:
                client.sendall(given)
                _drain(client)
                return
            fault = self._next_fault(head)
            if fault == "slow_down":
                client.sendall(_SLOW_DOWN % len(_BODY) + (b"" if head.startswith(b"HEAD") else _BODY))
                _drain(client)
                return
            with socket.create_connection(self._target) as server:
                server.sendall(_one_request_only(head) + rest)
                if fault is None:
                    self._wait_for_line(len(head) + len(rest))
                    self._pass(client, server)
                    return
                left = _length(head) - len(rest)
                answered = _pass_body(client, server, left // 2 if fault == "reset" else left)
                if fault == "lost_answer":
                    answered.wait(60)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _wait_for_line(self, num_bytes: int) -> None:
        """Sleeps until the line has had time to carry these bytes after all those before them."""
        if self.bytes_per_second is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + num_bytes / self.bytes_per_second
            wait = self._free_at - now
        time.sleep(wait)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        """Passes bytes both ways until the server closes."""
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        self._pump(server, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._wait_for_line(len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _next_fault(self, head: bytes) -> Fault | None:
        fault = self.fault
        if fault is None or (fault != "slow_down" and (not head.startswith((b"PUT", b"POST")) or not _length(head))):
            return None
        with self._lock:
            self._seen[fault] += 1
            if (self._seen[fault] - 1) % self.every:
                return None
            self.hits[fault] += 1
            return fault


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request line and headers, and the part of the body that arrived with them."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _one_request_only(head: bytes) -> bytes:
    """The headers with `Connection: close`, so that each connection carries one request."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines[:1], b"Connection: close", *lines[1:]])


def _length(head: bytes) -> int:
    """The length of the request's body in bytes."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _pass_body(client: socket.socket, server: socket.socket, length: int) -> threading.Event:
    """Passes `length` bytes of a body on, and `100 Continue` back. The answer is dropped and sets the event."""
    answered = threading.Event()
    threading.Thread(target=_swallow_answer, args=(server, client, answered), daemon=True).start()
    while length > 0 and (data := client.recv(min(length, 65536))):
        server.sendall(data)
        length -= len(data)
    return answered


def _swallow_answer(server: socket.socket, client: socket.socket, answered: threading.Event) -> None:
    with suppress(OSError):
        while (answer := server.recv(65536)).startswith(b"HTTP/1.1 100"):
            client.sendall(answer)
    answered.set()


def _drain(client: socket.socket) -> None:
    """Reads the rest of the request. Closing earlier would reset the connection before the client reads the answer."""
    client.shutdown(socket.SHUT_WR)
    client.settimeout(5)
    while client.recv(65536):
        pass


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """Runs a proxy in front of a server during a `with` block."""
    running = Proxy(endpoint)
    try:
        yield running
    finally:
        running.close()
