"""The people behind the dashboard: their passwords, logins and sessions.

`passwords` hashes; `logins` says who may come in, and who is in; `accounts` is what administrators change; `oidc` lets
an issuer of OpenID Connect say who somebody is; `visits` is all of it as HTTP carries it: cookies, and the tokens
against forged requests. The API and the dashboard both stand on these.
"""
