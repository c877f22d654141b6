"""How much one worker process does at a time, queue by queue."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from app.broker import COMPENSATIONS, STEPS, SYSTEM
from workers.slots import QueueSlots


def test_a_queue_whose_slots_are_taken_says_nothing_of_the_others() -> None:
    slots = QueueSlots({STEPS: 2, COMPENSATIONS: 1})
    slots.take(STEPS)
    assert (slots.free(STEPS), slots.room(STEPS)) == (True, 1)
    slots.take(STEPS)
    assert not slots.free(STEPS)
    assert slots.free(COMPENSATIONS)
    assert slots.any_free()
    slots.take(COMPENSATIONS)
    assert not slots.any_free()


def test_only_the_first_slot_of_a_full_queue_is_worth_telling() -> None:
    slots = QueueSlots({STEPS: 2})
    slots.take(STEPS)
    slots.take(STEPS)
    assert slots.give_back(STEPS)
    assert not slots.give_back(STEPS)


def test_who_comes_back_to_a_full_queue_is_let_in_and_room_is_told_once_there_is_some() -> None:
    slots = QueueSlots({STEPS: 1})
    slots.take(STEPS)
    slots.take(STEPS)  # one that was parked comes back
    assert slots.room(STEPS) == -1
    slots.give_back(STEPS)
    assert not slots.free(STEPS)
    assert slots.give_back(STEPS)
    assert slots.free(STEPS)


def test_a_queue_without_a_limit_is_read_one_at_a_time() -> None:
    slots = QueueSlots({})
    assert slots.room("another") == 1
    slots.take("another")
    assert not slots.free("another")


@given(st.lists(st.tuples(st.sampled_from([STEPS, COMPENSATIONS, SYSTEM]), st.booleans()), max_size=60))
def test_slots_are_never_lost(story: list[tuple[str, bool]]) -> None:
    limits = {STEPS: 3, COMPENSATIONS: 2, SYSTEM: 1}
    slots, taken = QueueSlots(limits), dict.fromkeys(limits, 0)
    for queue, come in story:
        if come:
            slots.take(queue)
            taken[queue] += 1
        elif taken[queue]:
            was_full = taken[queue] >= limits[queue]
            assert slots.give_back(queue) == was_full
            taken[queue] -= 1
        for name, limit in limits.items():
            assert slots.room(name) == limit - taken[name]
            assert slots.free(name) == (taken[name] < limit)
        assert slots.any_free() == any(taken[name] < limit for name, limit in limits.items())


def test_two_threads_do_not_lose_count() -> None:
    slots, rounds = QueueSlots({STEPS: 10}), 20_000

    def take() -> None:
        for _ in range(rounds):
            slots.take(STEPS)

    def give_back() -> None:
        for _ in range(rounds):
            slots.give_back(STEPS)

    threads = [threading.Thread(target=target) for target in (take, give_back)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slots.room(STEPS) == 10
