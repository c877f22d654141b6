"""One effect of a step at a time, whatever the order, the number and the moment of its calls."""

import asyncio

import pytest
from sqlalchemy import create_engine, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from saga_participant import Refused
from saga_participant.barrier import Barrier, CalledOff, forget
from saga_participant.tables import barrier, immediate
from tests.kit.conftest import call, effects

ID = "0199-1"
UNDO = call(ID, "compensation")


async def test_a_repeated_action_is_answered_as_the_first_was(service):
    first = await service.perform(call(ID))
    assert await service.perform(call(ID)) == first
    assert await service.effects(ID) == ["action"]


async def test_a_compensation_is_given_what_the_action_answered_and_happens_once(service):
    done = await service.perform(call(ID))
    undone = await service.perform(UNDO)
    assert undone["done"] == done
    assert await service.perform(UNDO) == undone
    assert await service.effects(ID) == ["action", "compensation"]


async def test_a_compensation_without_its_action_undoes_nothing_and_is_remembered(service):
    assert await service.perform(UNDO) is None
    with pytest.raises(CalledOff) as called_off:
        await service.perform(call(ID))
    assert called_off.value.status == 410
    assert await service.perform(UNDO) is None
    assert await service.effects(ID) == []


async def test_an_action_after_its_compensation_does_nothing(service):
    await service.perform(call(ID))
    await service.perform(UNDO)
    with pytest.raises(CalledOff):
        await service.perform(call(ID))
    assert await service.effects(ID) == ["action", "compensation"]


@pytest.mark.parametrize("raised", [Refused("sold out"), RuntimeError("a bug"), asyncio.CancelledError()], ids=repr)
async def test_a_failure_leaves_no_trace_and_the_same_call_may_succeed_later(service, raised):
    def fails(_session, _step):
        raise raised

    with pytest.raises(type(raised)):
        await service.perform(call(ID), then=fails)
    assert await service.effects(ID) == []
    await service.perform(call(ID))
    with pytest.raises(type(raised)):
        await service.perform(UNDO, then=fails)
    await service.perform(UNDO)
    assert await service.effects(ID) == ["action", "compensation"]


async def test_a_failure_that_somebody_catches_leaves_no_trace_either(service):
    def careless(session):
        with pytest.raises(RuntimeError), Barrier(session, call(ID)):  # noqa: PT012
            session.execute(insert(effects).values(saga_id=ID, what="action"))
            raise RuntimeError
        session.commit()

    await in_own_session(service, careless)
    assert await service.effects(ID) == []
    await service.perform(call(ID))
    assert await service.effects(ID) == ["action"]


async def test_in_a_savepoint_a_failure_takes_back_the_savepoint_only(service):
    def work(session):
        session.execute(insert(effects).values(saga_id="note", what="seen"))
        with pytest.raises(Refused), session.begin_nested(), Barrier(session, call(ID)):  # noqa: PT012
            session.execute(insert(effects).values(saga_id=ID, what="action"))
            raise Refused

    await service.store.run(work)
    assert await service.effects("note") == ["seen"]
    assert await service.effects(ID) == []


async def test_a_commit_inside_the_barrier_is_told(service):
    def work(session):
        with pytest.raises(RuntimeError, match="commit after it"), Barrier(session, call(ID)):
            session.commit()

    await in_own_session(service, work)


async def in_own_session(service, work):
    """A plain session that nothing begins or commits but `work`."""
    if isinstance(service.engine, AsyncEngine):
        async with service.engine.connect() as connection:
            await connection.run_sync(lambda plain: work(Session(plain)))
    else:
        with Session(service.engine) as session:
            work(session)


async def test_five_equal_calls_at_once_are_one_effect_and_five_equal_answers(service):
    answers = await asyncio.gather(*(service.perform(call(ID)) for _ in range(5)))
    assert answers == [answers[0]] * 5
    undone = await asyncio.gather(*(service.perform(UNDO) for _ in range(5)))
    assert undone == [undone[0]] * 5
    assert await service.effects(ID) == ["action", "compensation"]


@pytest.mark.parametrize(
    "saga_id",
    ["'; DROP TABLE saga_barrier; --", "%(saga_id)s :id $1 ?", "\N{PILE OF POO}" * 200, "~1/compensation", " ", "\\"],
    ids=["sql", "parameters", "emoji", "key", "space", "backslash"],
)
async def test_a_saga_id_is_data(service, saga_id):
    other = saga_id + "x"
    for one in (saga_id, other):
        await service.perform(call(one))
        await service.perform(call(one))
    await service.perform(call(saga_id, "compensation"))
    assert await service.effects(saga_id) == ["action", "compensation"]
    assert await service.effects(other) == ["action"]
    found = await service.store.run(lambda session: session.execute(select(barrier.c.saga_id)).scalars().all())
    assert sorted(found) == sorted([saga_id, other])


async def test_a_name_too_long_to_be_indexed_is_refused_before_anything_happens(service):
    with pytest.raises(ValueError, match="too long"):
        await service.perform(call("\N{PILE OF POO}" * 501))


async def test_steps_and_sagas_do_not_meet(service):
    for one in (call("a", step="b"), call("a", step="c"), call("ab", step="b")):
        await service.perform(one)
    assert await service.effects("a") == ["action", "action"]
    assert await service.effects("ab") == ["action"]


async def test_new_input_is_an_operation_of_its_own_and_calls_off_the_earlier_one(service):
    await service.perform(call(ID, generation=2))
    for earlier in (0, 1):
        with pytest.raises(CalledOff):
            await service.perform(call(ID, generation=earlier))
        assert await service.perform(call(ID, "compensation", generation=earlier)) is None
    await service.perform(call(ID, "compensation", generation=2))
    assert await service.effects(ID) == ["action", "compensation"]


async def test_new_input_leaves_alone_what_the_earlier_generation_did(service):
    """Whoever sends it has declared that the earlier one was not done. Where it was, it can still be undone."""
    await service.perform(call(ID))
    await service.perform(call(ID, generation=1))
    await service.perform(UNDO)
    assert await service.effects(ID) == ["action", "action", "compensation"]


async def test_what_is_forgotten_is_new_again(service):
    await service.perform(call(ID))
    assert await service.store.run(lambda session: forget(session, older_than_seconds=60)) == 0
    assert await service.store.run(lambda session: forget(session, older_than_seconds=-60)) == 1
    await service.perform(call(ID))
    assert await service.effects(ID) == ["action", "action"]


async def test_an_answer_that_json_cannot_say_leaves_no_trace(service):
    def answers(_session, step):
        step.answer = {"at": object()}

    with pytest.raises(TypeError):
        await service.perform(call(ID), then=answers)
    assert await service.effects(ID) == []


def test_sqlite_begins_with_the_write_lock_once_however_often_it_is_asked_for(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'one.sqlite'}")
    immediate(engine)
    immediate(engine)
    with engine.begin() as connection:
        assert connection.connection.in_transaction
    engine.dispose()


def test_another_database_is_refused_with_a_sentence():
    from sqlalchemy import create_mock_engine

    from saga_participant.tables import insert_once

    with pytest.raises(NotImplementedError, match="not mysql"):
        insert_once(create_mock_engine("mysql+pymysql://", None), barrier, {})
