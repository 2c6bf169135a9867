"""Virtual time for the tests: that of the test kit."""

from taskflow.testing.virtual import Broker, Crash, FollowingClock, Planner

__all__ = ["Broker", "Crash", "FollowingClock", "Planner"]
