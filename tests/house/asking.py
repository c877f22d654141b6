"""What a client of PostgreSQL is answered."""

import asyncpg


async def query(url: str, *statements: str) -> object:
    """What the last statement answers."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()
