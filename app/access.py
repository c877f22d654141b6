"""Who asks, and what that lets them do: scopes of keys, roles of people, tenants.

A caller has rights, whichever way it has come by them. Every route and every page asks for one right, and for nothing
else; so what a key may and what a person may is written down here and nowhere else.

Sagas, their keys and labels belong to a tenant; definitions and services are common. `tenant` is what a caller writes
to, `sees` what it looks at. A caller of no tenant ("") who may administer is the house's own: it looks at every
tenant. Anybody else sees one tenant, and what belongs to another is not there for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias, get_args

from app.saga.messages import Actor

Scope: TypeAlias = Literal["start", "read", "define", "admin"]
Role: TypeAlias = Literal["viewer", "operator", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
ROLES: Final[tuple[Role, ...]] = get_args(Role)

NO_TENANT: Final = ""
TENANT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a tenant is called."""


class Right(StrEnum):
    START = "start"
    """Begin sagas, cancel them, publish events."""
    READ = "read"
    DEFINE = "define"
    """Register definitions and services."""
    LOOK = "look"
    """Read what operators read: what needs attention, dead letters, notices, the audit trail."""
    OPERATE = "operate"
    """Repair sagas, close letters."""
    ADMINISTER = "administer"
    """Keys, users, sessions."""


OF_SCOPE: Final[Mapping[Scope, frozenset[Right]]] = {
    "start": frozenset({Right.START}),
    "read": frozenset({Right.READ}),
    "define": frozenset({Right.DEFINE}),
    "admin": frozenset(Right),
}
OF_ROLE: Final[Mapping[Role, frozenset[Right]]] = {
    "viewer": frozenset({Right.READ, Right.LOOK}),
    "operator": frozenset({Right.READ, Right.LOOK, Right.START, Right.OPERATE}),
    "admin": frozenset(Right),
}


def scope_for(right: Right) -> Scope:
    """The smallest scope of a key that includes the right."""
    return next(scope for scope in SCOPES if right in OF_SCOPE[scope])


def role_for(right: Right) -> Role:
    """The smallest role that includes the right."""
    return next(role for role in ROLES if right in OF_ROLE[role])


@dataclass(frozen=True, slots=True)
class Caller:
    """Who stands behind a request."""

    name: str
    """`key:ID` or `user:NAME`."""
    rights: frozenset[Right]
    tenant: str
    role: Role | None = None
    """Of a person."""
    every_tenant: bool = False
    address: str | None = None
    """Where the request came from."""

    @property
    def sees(self) -> str | None:
        """The one tenant that it looks at; None: every one."""
        return None if self.every_tenant else self.tenant

    def may(self, right: Right) -> bool:
        return right in self.rights

    def actor(self, reason: str | None = None) -> Actor:
        return Actor(self.name, reason)


def of_key(key_id: str, scopes: Iterable[Scope], tenant: str, address: str | None = None) -> Caller:
    rights = frozenset[Right]().union(*(OF_SCOPE[scope] for scope in scopes))
    house = tenant == NO_TENANT and Right.ADMINISTER in rights
    return Caller(f"key:{key_id}", rights, tenant, every_tenant=house, address=address)


def of_user(name: str, role: Role, tenant: str | None, address: str | None = None) -> Caller:
    """`tenant`: None for the house's own people, who look at every tenant."""
    return Caller(
        f"user:{name}", OF_ROLE[role], tenant or NO_TENANT, role, every_tenant=tenant is None, address=address
    )
