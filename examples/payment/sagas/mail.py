"""The confirmation, sent by SMTP. A plain function, since smtplib blocks.

A mail cannot be called back, and SMTP knows no idempotency key: whoever loses the connection after the last
dot cannot know whether the mail is on its way, and has to send it again. So the honest promise is 'at least
once', and the Message-ID, which is derived from the key, lets a mailbox and a reader recognise the second
copy. Deadline and order do the rest: nothing is sent after the deadline, and the step comes last.
"""

import os
import smtplib
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from saga_participant import Call, Refused, handler

SMTP_URL = os.environ.get("PAYMENT_SMTP_URL", "smtp://127.0.0.1:9012")


@handler("send")
def send(call: Call) -> dict[str, Any]:
    mail = EmailMessage()
    mail["Message-ID"] = f"<{call.idempotency_key}@bookshop.example>"
    mail["X-Saga-Id"] = call.saga_id
    mail["From"] = "bookshop@bookshop.example"
    mail["To"] = call.input["email"]
    mail["Subject"] = "Your payment"
    price = f"{call.input['amount'] / 100:.2f} {call.input['currency'].upper()}"
    mail.set_content(f"{call.input['merchant']} holds {price} on your card.")

    left_seconds = (call.deadline - datetime.now(UTC)).total_seconds()
    if left_seconds <= 0:
        raise TimeoutError("the deadline has passed; nothing was sent")
    server = urlsplit(SMTP_URL)
    try:
        # Without a name of its own smtplib would ask the DNS for one.
        with smtplib.SMTP(server.hostname or "", server.port or 25, "localhost", left_seconds) as smtp:
            smtp.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        if all(status >= 500 for status, _ in error.recipients.values()):
            raise Refused(f"nobody there is called {call.input['email']}") from error
        raise
    return {"message_id": mail["Message-ID"]}
