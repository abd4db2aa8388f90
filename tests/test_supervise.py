"""What a command and everything it starts takes, with programs that try to get away with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from fastpart import supervise
from fastpart.at_once import at_once
from fastpart.errors import FastpartError
from fastpart.supervise import Limits, run_measured

BURN = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""

#: Programs by what they do; each burns 0.4 s of CPU time, wherever it hides it.
CHEATS = {
    "alone": "burn(0.4)",
    "child": "import subprocess; subprocess.run([sys.executable, '-c', {burn!r} + 'burn(0.4)'])",
    "daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1), os.close(2)
        burn(0.4)
    os._exit(0)
os.wait()""",
    "unwaited": """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
child = os.fork()
if child == 0:
    burn(0.4)
    os._exit(0)
while os.path.exists(f"/proc/{child}"):
    time.sleep(0.02)""",
}


@pytest.fixture
def core() -> int:
    return min(os.sched_getaffinity(0))


def measure(tmp_path, program: str, **more):
    program = BURN + program.replace("{burn!r}", repr(BURN))
    return run_measured([sys.executable, "-c", program], tmp_path / "log", **more)


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_it_starts_counts(tmp_path, core, cheat):
    used = measure(tmp_path, CHEATS[cheat], core=core)
    assert 0.38 < used.cpu_s < 0.7
    assert used.second_thread_s < 0.1
    assert used.adopted == (cheat == "daemon")
    assert not used.left_running
    assert set(used.cpus) == {core}


def test_unwaited_children_count_without_a_cgroup(tmp_path, core, monkeypatch):
    monkeypatch.setattr(supervise, "own_cgroup", lambda: None)
    used = measure(tmp_path, CHEATS["unwaited"], core=core)
    assert used.accounting == "sampled" and 0.25 < used.cpu_s < 0.7


@pytest.mark.parametrize("program", [
    "import hashlib, threading\n"
    "def work():\n"
    "    for _ in range(120): hashlib.sha256(bytes(5_000_000))\n"
    "threads = [threading.Thread(target=work) for _ in range(2)]\n"
    "[one.start() for one in threads]; [one.join() for one in threads]",
    "pid = os.fork(); burn(0.4)\nif pid: os.wait()",
])
def test_a_second_thread_is_seen_on_one_core(tmp_path, core, program):
    used = measure(tmp_path, program, core=core)
    assert 0.2 < used.second_thread_s < used.cpu_s
    assert used.cpu_s < used.wall_s + 0.1


def test_another_core_is_seen(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        os.sched_setaffinity(0, range(os.cpu_count()))
        everything = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores)
        if len(everything) < 2:
            pytest.skip("MISSING: a second CPU to run on")
        cores = everything
    other = next(core for core in cores if core != min(os.sched_getaffinity(0)))
    used = measure(tmp_path, f"os.sched_setaffinity(0, {{{other}}}); burn(0.4)",
                   core=min(os.sched_getaffinity(0)))
    assert other in used.cpus


def test_waiting_is_not_computing(tmp_path, core):
    used = measure(tmp_path, "time.sleep(0.5)", core=core)
    assert used.wall_s > 0.5 and used.cpu_s < 0.2
    assert used.wall_s - used.cpu_s - used.run_delay_s > 0.3


def test_what_is_left_running_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LINGER_S", 0.3)
    used = measure(tmp_path, "if os.fork() == 0: os.setsid(); time.sleep(100)")
    assert used.left_running and used.wall_s < 20


@pytest.mark.parametrize(("limits", "program", "says"), [
    (Limits(wall_s=0.5), "time.sleep(60)", "had not ended after 0.5 s"),
    (Limits(cpu_s=0), "burn(60)", "signal SIG(XCPU|KILL)"),
    (Limits(file_bytes=1000), "open('FILE', 'wb').write(bytes(10**6))", "larger than 1000 bytes|File too large"),
    (Limits(memory_bytes=1 << 28), "bytearray(1 << 29)", "MemoryError"),
])
def test_limits(tmp_path, limits, program, says):
    start = time.monotonic()
    with pytest.raises(FastpartError, match=says):
        measure(tmp_path, program.replace("FILE", str(tmp_path / "file")), limits=limits)
    assert time.monotonic() - start < 20
    if limits.file_bytes:
        assert (tmp_path / "file").stat().st_size <= 1000


def test_a_command_that_ends_its_supervisor(tmp_path):
    with pytest.raises(FastpartError, match="process that supervises it was ended"):
        measure(tmp_path, "os.kill(os.getppid(), 9); time.sleep(10)")


def test_a_daemon_dies_with_the_caller(tmp_path):
    """kill -9 of the caller takes the encoder's grandchildren with it."""
    pid_file = tmp_path / "pid"
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(100)\n"
        "time.sleep(100)"
    )
    program = (
        "import sys; from fastpart.supervise import run_measured; "
        f"run_measured([sys.executable, '-c', {daemon!r}], {str(tmp_path / 'log')!r})"
    )
    caller = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 20
    pid = 0
    while not pid and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
    assert pid, "the daemon never started"
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_nicer_command_gets_less_of_a_shared_core(tmp_path):
    core = min(os.sched_getaffinity(0))
    work = [sys.executable, "-I", "-S", "-c", "import time\nwhile time.process_time() < 1: pass"]
    ends = at_once([
        lambda nice=nice: (run_measured(work, tmp_path / f"{nice}.log", core=core, share_nice=nice), time.monotonic())
        for nice in (0, 5)
    ])
    (plain, plain_end), (nicer, nicer_end) = [one.result() for one in ends]
    assert nicer_end > plain_end
    # A core's share of 1 to 0.33: the nicer one waits for the other's second, the other for a third of it.
    assert nicer.wall_s - nicer.cpu_s > plain.wall_s - plain.cpu_s + 0.2
