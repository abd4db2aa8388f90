"""Program that runs one command and counts everything it starts. Started by `fastpart.supervise`.

It stands alone, so that it starts fast and a command cannot reach into the caller's memory.
As the subreaper of its descendants (prctl(2)) it inherits and waits for those that outlive
their parents, daemons among them, so that wait4's times include them. When the caller ends,
or a limit is exceeded, it kills them all.

First argument: JSON object with argv, core (or null), share_nice (added to the niceness where
others share the core, or null), memory_bytes, file_bytes, cpu_s, wall_s (limits or null),
linger_s (how long what the command leaves running may take to end), cgroup (folder of a cgroup
to join, or null), report (descriptor to write the report to), parent (process ID of the
caller). The report is one JSON object, see `_report`.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Between two looks at what is left running, seconds.
_TICK_S = 0.02

#: Longest turn that the kernel grants on a shared core.
_TURN_NS = 100_000_000


def main() -> None:
    job = json.loads(sys.argv[1])
    os.set_inheritable(job["report"], False)
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1):
        sys.exit("this kernel has no subreaper (Linux 3.4)")
    if os.getppid() != job["parent"]:
        sys.exit(1)
    failed_read, failed_write = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(job, libc, failed_write)
    os.close(failed_write)
    failed = os.read(failed_read, 64).decode()
    report = _watch(job, child, start)
    report["exec_error"] = int(failed) if failed else None
    with os.fdopen(job["report"], "w") as file:
        json.dump(report, file)


def _become(job: dict, libc: ctypes.CDLL, failed: int) -> None:
    """Turn this process into the command; never returns."""
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, kind in (
            ("memory_bytes", resource.RLIMIT_AS), ("file_bytes", resource.RLIMIT_FSIZE),
            ("cpu_s", resource.RLIMIT_CPU),
        ):
            if job[name] is not None:
                limit = int(job[name]) + (name == "cpu_s")
                resource.setrlimit(kind, (limit, limit))
        if job["share_nice"] is not None:
            _share_core(job["share_nice"], libc)
        if job["core"] is not None:
            os.sched_setaffinity(0, {job["core"]})
        if job["cgroup"]:
            with open(os.path.join(job["cgroup"], "cgroup.procs"), "w") as file:
                file.write("0")
        os.execvp(job["argv"][0], job["argv"])
    except OSError as error:
        os.write(failed, str(error.errno).encode())
    finally:
        os._exit(127)


def _share_core(nice: int, libc: ctypes.CDLL) -> None:
    """Lower the priority, and ask for long turns, so that the caches are seldom filled anew."""
    os.nice(nice)
    # Where sessions share the CPU among them (sched(7), autogroup), theirs is what counts.
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write(str(nice))
    # sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period. The runtime is
    # the turn since Linux 6.12; before, it is without effect.
    if number := {"x86_64": 314, "aarch64": 274}.get(os.uname().machine):
        level = os.getpriority(os.PRIO_PROCESS, 0)
        libc.syscall(number, 0, struct.pack("=IIQiIQQQ", 48, 0, 0, level, 0, _TURN_NS, 0, 0), 0)


def _watch(job: dict, child: int, start: float) -> dict:
    """Wait for the command and all that descends from it."""
    reaped, status, ended = 0, None, None
    timed_out = left_running = False
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return _report(status, start, reaped, timed_out, left_running)
        if pid:
            reaped += 1
            if pid == child:
                status, ended = code, time.monotonic()
            continue
        now = time.monotonic()
        if job["wall_s"] is not None and now - start > job["wall_s"]:
            timed_out = True
        if ended is not None and now - ended > job["linger_s"]:
            left_running = True
        if timed_out or left_running:
            _kill_all(job["cgroup"])
        # After the command itself has ended, its session may be over without a SIGCHLD for us.
        told = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], _TICK_S if ended else 0.1)
        if told and told.si_signo == signal.SIGTERM:
            while True:
                _kill_all(job["cgroup"])
                try:
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
                except ChildProcessError:
                    sys.exit(1)
                time.sleep(_TICK_S)


def _report(status, start, reaped, timed_out, left_running) -> dict:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "wall_s": time.monotonic() - start,
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "max_rss_kib": used.ru_maxrss,
        "involuntary_switches": used.ru_nivcsw,
        "adopted": reaped - 1,
        "timed_out": timed_out,
        "left_running": left_running,
    }


def _kill_all(cgroup: str | None) -> None:
    """SIGKILL every descendant."""
    if cgroup:
        with contextlib.suppress(OSError), open(os.path.join(cgroup, "cgroup.kill"), "w") as file:
            file.write("1")
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
