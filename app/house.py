"""The parts of one process, put together: the only place that knows them all.

Open it inside the event loop that it belongs to, and after any fork.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app import callbacks
from app.alive import Alive
from app.attempts import Attempts
from app.broker import Publisher
from app.bus import Bus
from app.engine import Engine
from app.participants.registry import Participants
from app.people.logins import Logins
from app.people.passwords import Passwords
from app.people.users import Users
from app.recent import Recent
from app.relay import Courier, Relay
from app.settings import Settings
from app.store.audit import AuditTrail
from app.store.bulk_jobs import BulkJobs
from app.store.database import Database
from app.store.definitions import Definitions
from app.store.events import Events
from app.store.keys import ApiKeys
from app.store.letters import Letters
from app.store.listing import Listing
from app.store.notices import Notices
from app.store.outbox import Outbox
from app.store.overview import Overview
from app.store.sagas import Sagas
from app.store.sealing import Sealer
from app.store.services import Services
from app.sweep import Sweeper
from app.tracker import Tracker

if TYPE_CHECKING:
    from app.people.oidc import Oidc


@dataclass(frozen=True, slots=True)
class House:
    settings: Settings
    database: Database
    definitions: Definitions
    services: Services
    sagas: Sagas
    listing: Listing
    overview: Overview
    letters: Letters
    notices: Notices
    events: Events
    bus: Bus
    publisher: Publisher
    alive: Alive
    engine: Engine
    attempts: Attempts | None
    """Only in workers."""
    sweeper: Sweeper
    relay: Relay
    tracker: Tracker
    courier: Courier | None
    """Only in workers."""
    participants: Participants | None
    logins: Logins
    users: Users
    api_keys: ApiKeys
    audit: AuditTrail
    bulk_jobs: BulkJobs
    oidc: "Oidc | None"
    """Where an issuer is set."""


@contextlib.asynccontextmanager
async def open_house(settings: Settings, *, worker: bool = False) -> AsyncIterator[House]:
    """`worker`: whether attempts are carried out in this process."""
    database = Database(settings.database_url, pool=settings.database_pool)
    definitions, services, sealer = Definitions(database), Services(database), Sealer.of(settings)
    sagas, notices = Sagas(database, definitions, sealer), Notices(database, sealer)
    publisher = Publisher(settings.redis_url)
    alive = Alive(settings.redis_url)
    participants = Participants(services.get, settings) if worker else None
    recent = Recent(database.clock) if worker else None
    courier = Courier(notices, services, settings) if worker else None
    events, bus = Events(database, sealer), Bus(settings.redis_url)
    relay = Relay(Outbox(database), publisher, bus)
    passwords = Passwords()
    logins = Logins(database, settings, passwords)
    engine = Engine(sagas, definitions, database, publisher, settings, recent, relay.wake)
    attempts = None
    if participants is not None and recent is not None:
        attempts = Attempts(engine, participants, recent, settings, callbacks.maker(settings))
    try:
        yield House(
            settings,
            database,
            definitions,
            services,
            sagas,
            Listing(database, sagas),
            Overview(database, definitions),
            Letters(database, sealer),
            notices,
            events,
            bus,
            publisher,
            alive,
            engine,
            attempts,
            Sweeper(engine, services, publisher, settings),
            relay,
            Tracker(bus, engine, definitions, services, events, settings),
            courier,
            participants,
            logins,
            Users(database, passwords, logins),
            ApiKeys(database),
            AuditTrail(database),
            BulkJobs(database),
            _oidc(settings),
        )
    finally:
        passwords.close()
        if courier is not None:
            await courier.close()
        if participants is not None:
            await participants.close()
        await engine.close()
        await relay.close()
        await bus.close()
        await publisher.close()
        await alive.close()
        await services.close()
        await database.close()


def _oidc(settings: Settings) -> "Oidc | None":
    if settings.oidc_issuer is None:
        return None
    from app.people.oidc import Oidc  # noqa: PLC0415 - half a second to import, and only for those who use it

    return Oidc(settings)
