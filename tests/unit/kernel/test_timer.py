from vllm_symphony.kernel.timer import Timers


def test_timers_fire_in_order_of_time_then_of_setting() -> None:
    timers, fired = Timers(), []
    for name, when in (("late", 9), ("first", 5), ("second", 5)):
        timers.at(when, lambda now, name=name: fired.append((name, now)))

    timers.run(5)
    assert (fired, timers.next_ns()) == ([("first", 5), ("second", 5)], 9)
    timers.run(20)

    assert fired[2:] == [("late", 20)]
    assert timers.next_ns() is None


def test_a_timer_may_set_and_cancel_others() -> None:
    timers, fired = Timers(), []
    victim = timers.at(2, lambda now: fired.append("victim"))

    def fire(now: int) -> None:
        timers.cancel(victim)
        timers.at(now, lambda _: fired.append("new"))

    timers.at(1, fire)
    timers.run(10)

    assert fired == ["new"]
    assert len(timers) == 0


def test_a_million_cancelled_timers_leave_no_heap() -> None:
    timers = Timers()
    kept = timers.at(10**9, lambda now: None)

    for when in range(10_000):
        timers.cancel(timers.at(10**6 + when, lambda now: None))

    assert len(timers._heap) <= 65
    timers.check()
    timers.cancel(kept)
    timers.cancel(kept)
    timers.cancel(None)
    assert timers.next_ns() is None
