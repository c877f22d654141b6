"""A mailbox for everybody, on loopback: `python smtp_server.py --port 9012 --data DIR`.

Every mail that is delivered becomes a line of DIR/mails.jsonl before it is accepted. Nothing is sent on.
"""

import argparse
import asyncio
import email
import json
import os
from email import policy
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """What aiosmtpd calls for each mail."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - its name
        mail = email.message_from_bytes(envelope.content or b"", policy=policy.default)
        line = {
            "message_id": mail["Message-ID"],
            "saga_id": mail["X-Saga-Id"],
            "to": envelope.rcpt_tos,
            "subject": mail["Subject"],
            "text": mail.get_content(),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return "250 kept"


async def serve(port: int, mailbox: Mailbox) -> None:
    # Without a name of its own the server would ask the DNS for one.
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, hostname="localhost"), "127.0.0.1", port
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(arguments.port, Mailbox(arguments.data / "mails.jsonl")))


if __name__ == "__main__":
    main()
