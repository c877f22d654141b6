"""What people see: pages, made on the server. All that they do is what the API does, through the same calls."""

from typing import Final

from fastapi import APIRouter

from app.dashboard import (
    acting,
    again,
    attention,
    audit,
    bulk,
    definitions,
    house,
    keys,
    letters,
    login,
    pages,
    saga,
    sagas,
    services,
    users,
)

PAGES: Final[tuple[APIRouter, ...]] = (
    login.router,
    pages.router,
    attention.router,
    sagas.router,
    bulk.router,
    saga.router,
    acting.router,
    again.router,
    letters.router,
    definitions.router,
    services.router,
    house.router,
    audit.router,
    keys.router,
    users.router,
)
