"""A participant that answers at once: `python -m benchmarks.participant PORT`. As cheap as Python can be.

It reads just enough HTTP to find where a request ends, so that a benchmark measures the orchestrator.
"""

import asyncio
import socket
import struct
import sys

import uvloop

OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 61\r\n\r\n"
    b'{"ok":true,"ref":"0123456789abcdef0123456789abcdef","n":1234}'
)
REFUSED = b'HTTP/1.1 422 Unprocessable\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok":false}'


class Participant(asyncio.Protocol):
    """Refuses `POST .../refuse`, accepts everything else."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            refused = head.partition(b" HTTP/1.1")[0].endswith(b"/refuse")
            self._transport.write(REFUSED if refused else OK)


class Breaks(asyncio.Protocol):
    """Resets the connection of every request."""

    def __init__(self, asked: list[bytes]) -> None:
        self._asked = asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked.append(data)
        # A close without lingering is a reset on the wire.
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self._transport.abort()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Participant, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
