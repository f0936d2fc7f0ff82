"""Wrong passwords slow down whoever gives them."""

from __future__ import annotations

from server.people.throttle import Throttle


def test_the_wait_grows_up_to_a_minute_and_ends_with_the_right_password() -> None:
    now = 0.0
    throttle = Throttle(lambda: now)
    waits = []
    for _ in range(14):
        waits.append(throttle.seconds_left("anna"))
        throttle.failed("anna")
    assert waits[:5] == [0.0] * 5
    assert waits[5:8] == [1.0, 2.0, 4.0]
    assert waits[-1] == 60.0
    now = 61.0
    assert throttle.seconds_left("anna") == 0.0
    throttle.passed("anna")
    throttle.failed("anna")
    assert throttle.seconds_left("anna") == 0.0


def test_nobody_waits_for_what_another_has_done() -> None:
    throttle = Throttle()
    for _ in range(50):
        throttle.failed(("10.0.0.1", "anna"))
    assert throttle.seconds_left(("10.0.0.1", "anna")) > 0
    assert throttle.seconds_left(("10.0.0.2", "anna")) == 0
    assert throttle.seconds_left(("10.0.0.1", "ben")) == 0
