"""What provider, ledger and mailbox hold for one saga: the witnesses of the demonstration and of the tests.

They ask the three directly and share no code with the adapters that they check.
"""

import json
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import asyncpg

_opener = build_opener(ProxyHandler({}))  # loopback needs no proxy


def psp_holds(psp_url: str, saga_id: str) -> list[dict[str, Any]]:
    """`[{intent, status, amount}]`, oldest first. Money is held while the status is `requires_capture`."""
    intents: list[dict[str, Any]] = []
    page = {"has_more": True, "data": []}
    while page["has_more"]:
        after = f"&starting_after={page['data'][-1]['id']}" if page["data"] else ""
        request = Request(
            f"{psp_url}/v1/payment_intents?limit=100{after}", headers={"Authorization": "Bearer sk_test_checks"}
        )
        with _opener.open(request, timeout=10) as response:
            page = json.load(response)
        intents += page["data"]
    return [
        {"intent": each["id"], "status": each["status"], "amount": each["amount"]}
        for each in intents
        if each["metadata"].get("saga_id") == saga_id
    ]


async def ledger_holds(ledger_url: str, saga_id: str) -> dict[str, Any]:
    """`{booked, reversed, owed}`: transfers, how many of them are reversals, and cents per merchant."""
    db = await asyncpg.connect(ledger_url)
    try:
        rows = await db.fetch("SELECT * FROM transfer WHERE saga_id = $1", saga_id)
    finally:
        await db.close()
    owed: dict[str, int] = {}
    for row in rows:
        owed[row["given_to"]] = owed.get(row["given_to"], 0) + row["amount"]
        owed[row["taken_from"]] = owed.get(row["taken_from"], 0) - row["amount"]
    return {
        "booked": sum(row["reverses"] is None for row in rows),
        "reversed": sum(row["reverses"] is not None for row in rows),
        "owed": {name: cents for name, cents in owed.items() if name != "card-payments"},
    }


def mailbox_holds(mail_directory: Path, saga_id: str) -> list[dict[str, Any]]:
    """`[{message_id, to, subject, deliveries}]`: copies with one Message-ID are one mail, delivered again."""
    mails: dict[str, dict[str, Any]] = {}
    path = mail_directory / "mails.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        mail = json.loads(line)
        if mail["saga_id"] == saga_id:
            found = mails.setdefault(
                mail["message_id"],
                {key: mail[key] for key in ("message_id", "to", "subject")} | {"deliveries": 0},
            )
            found["deliveries"] += 1
    return list(mails.values())
