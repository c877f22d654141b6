"""Bringing everything that is sealed under the key that seals now, beside running workers.

In batches, each a short transaction that locks its rows and passes over those that somebody else has locked: what is
written meanwhile is neither held up nor overwritten. Started again, it goes on with what is left.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import PayloadUnreadable
from app.store.database import Connection
from app.store.events import owner_of_event
from app.store.sealing import EVENT, LETTER, NOTICE, PLAIN_CODEC, Sealer

PASSES: Final = 3
"""Over what somebody else had locked, or has written by an older setting meanwhile."""
SAMPLE: Final = 1000

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where something sealed is kept."""

    table: str
    keys: Mapping[str, str]
    """Type by column of its primary key."""
    column: str
    type: str
    names: Callable[[Row], tuple[str, str]]
    """(owner, name) of a row, for the sealer."""

    @property
    def text(self) -> str:
        return f"{self.column} #>> '{{}}'" if self.type == "jsonb" else self.column

    @property
    def key_id(self) -> str:
        """SQL: the id of the key of a sealed row."""
        if self.type == "bytea":
            named = f"encode(substring({self.column} FROM 2 FOR get_byte({self.column}, 0)), 'escape')"
            return f"CASE WHEN octet_length({self.column}) > 0 THEN {named} END"
        return f"split_part({self.text}, ':', 1)"

    @property
    def to_do(self) -> str:
        """SQL: whether a row is not as it would be written now; $1 is how what is sealed now begins."""
        if self.type == "bytea":
            under = f"substring({self.column} FROM 1 FOR octet_length($1::bytea)) = $1"
        else:
            under = f"starts_with({self.text}, convert_from($1::bytea, 'UTF8'))"
        stays_plain = "octet_length($1::bytea) = 0"
        wrong = f"CASE WHEN codec = {PLAIN_CODEC} THEN NOT {stays_plain} ELSE {stays_plain} OR NOT {under} END"
        return f"{self.column} IS NOT NULL AND {wrong}"

    def head(self, sealer: Sealer) -> bytes:
        return sealer.head if self.type == "bytea" or sealer.current is None else f"{sealer.current}:".encode()

    def resealed(self, sealer: Sealer, row: Row) -> tuple[int, bytes | str]:
        """Raises PayloadUnreadable."""
        owner, name = self.names(row)
        codec, data = row["codec"], row["data"]
        if self.type == "bytea":
            return sealer.seal(owner, name, sealer.open(owner, name, codec, data))
        text = sealer.open_text(owner, name, codec, data)
        return (sealer.seal_json if self.type == "jsonb" else sealer.seal_text)(owner, name, text)


_KEPT: Final = (
    _Kept(
        "saga_payload",
        {"saga_id": "uuid", "name": "text"},
        "data",
        "bytea",
        lambda row: (str(row["saga_id"]), row["name"]),
    ),
    _Kept("notice", {"id": "uuid"}, "body", "bytea", lambda row: (str(row["id"]), NOTICE)),
    _Kept(
        "event_seen",
        {"reader": "text", "source": "text", "id": "text"},
        "event",
        "text",
        lambda row: (owner_of_event(row["source"], row["id"]), EVENT),
    ),
    _Kept("dead_letter", {"id": "uuid"}, "event", "jsonb", lambda row: (str(row["id"]), LETTER)),
)


@dataclass(slots=True)
class Rotated:
    resealed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """A sentence for each kind of row that cannot be opened."""
    used: Counter[str | None] = field(default_factory=Counter)
    """Rows by the key that they are sealed with; None: plain."""


async def rotate(
    connection: Connection, sealer: Sealer, batch: int, tell: Callable[[str, int], None] = lambda *_: None
) -> Rotated:
    """`tell` hears of each batch: the table, and how many of its rows were sealed anew so far."""
    rotated = Rotated()
    for _ in range(PASSES):
        before = rotated.resealed
        for kept in _KEPT:
            await _rotate(connection, sealer, kept, batch, rotated, tell)
        if rotated.resealed == before:
            break
    rotated.used = await used_keys(connection)
    return rotated


async def _rotate(
    connection: Connection,
    sealer: Sealer,
    kept: _Kept,
    batch: int,
    rotated: Rotated,
    tell: Callable[[str, int], None],
) -> None:
    keys = ", ".join(kept.keys)
    # A JSON column as its text is; a sealed one as the text within.
    data = f"CASE WHEN codec = {PLAIN_CODEC} THEN {kept.column}::text ELSE {kept.text} END"
    data = data if kept.type == "jsonb" else kept.column
    places = ", ".join(f"${number}::{kind}" for number, kind in enumerate(kept.keys.values(), 3))
    first = f"SELECT {keys}, codec, {data} AS data FROM {kept.table} WHERE {kept.to_do}"
    last = f"ORDER BY {keys} LIMIT $2 FOR UPDATE SKIP LOCKED"
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kept.keys.values(), 1))
    number = len(kept.keys)
    update = f"""
        UPDATE {kept.table} AS t SET codec = n.codec, {kept.column} = n.data
        FROM unnest({arrays}, ${number + 1}::smallint[], ${number + 2}::{kept.type}[]) AS n({keys}, codec, data)
        WHERE {" AND ".join(f"t.{key} = n.{key}" for key in kept.keys)}"""
    head, done, after = kept.head(sealer), 0, ()
    while True:
        async with connection.transaction():
            further = f"AND ({keys}) > ({places})" if after else ""
            rows = await connection.fetch(f"{first} {further} {last}", head, batch, *after)
            changed = []
            for row in rows:
                try:
                    changed.append((*(row[key] for key in kept.keys), *kept.resealed(sealer, row)))
                except PayloadUnreadable as error:
                    rotated.unreadable.setdefault(error.key_id or "", str(error))
            if changed:
                await connection.execute(update, *(list(column) for column in zip(*changed, strict=True)))
        done += len(changed)
        rotated.resealed += len(changed)
        tell(kept.table, done)
        if len(rows) < batch:
            return
        after = tuple(rows[-1][key] for key in kept.keys)


async def used_keys(connection: Connection) -> Counter[str | None]:
    """Reads every row."""
    found: Counter[str | None] = Counter()
    for kept in _KEPT:
        rows = await connection.fetch(f"""
            SELECT CASE WHEN codec <> {PLAIN_CODEC} THEN coalesce({kept.key_id}, '') END AS key, count(*) AS number
            FROM {kept.table} WHERE {kept.column} IS NOT NULL GROUP BY 1""")
        for row in rows:
            found[row["key"]] += row["number"]
    return found


async def sampled_keys(connection: Connection) -> set[str]:
    """Keys that the newest and the oldest payloads are sealed with: a look, where counting would read everything."""
    payloads = _KEPT[0]
    keys = ", ".join(payloads.keys)
    ends = " UNION ALL ".join(
        f"(SELECT codec, data FROM saga_payload ORDER BY {keys.replace(',', f' {order},')} {order} LIMIT {SAMPLE})"
        for order in ("ASC", "DESC")
    )
    rows = await connection.fetch(
        f"SELECT DISTINCT {payloads.key_id} AS key FROM ({ends}) AS ends WHERE codec <> {PLAIN_CODEC}"
    )
    return {row["key"] or "" for row in rows}
