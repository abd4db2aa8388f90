"""Jobs that run at the same time."""

import threading

import pytest

from fastpart.at_once import at_once


def test_all_jobs_run_at_the_same_time_and_keep_their_order():
    barrier = threading.Barrier(3, timeout=10)

    def job(name):
        barrier.wait()
        return name

    futures = at_once([lambda name=name: job(name) for name in "abc"])
    assert [future.result(timeout=0) for future in futures] == ["a", "b", "c"]


def test_a_failure_is_its_own_and_the_others_end():
    def fail():
        raise ValueError("no")

    failed, done = at_once([fail, lambda: 1])
    assert done.result(timeout=0) == 1
    with pytest.raises(ValueError, match="no"):
        failed.result(timeout=0)
