"""Runs a command to its end and counts what it and everything it starts takes.

The command runs under a supervising process that adopts and waits for its orphans, so that
daemons count (`fastpart._supervisor`); where a cgroup v2 can be made, the kernel's own
account of it is read besides. Meanwhile the process tree is sampled from /proc: which threads
use the CPU, on which CPU, and how long they wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fastpart.errors import FastpartError

#: How long what a command leaves running may take to end by itself, seconds.
LINGER_S = 10.0

#: Characters of a line and of a log that are kept of a command with a limit on its files.
LINE_CHARACTERS = 1 << 16
LOG_CHARACTERS = 1 << 26

_SUPERVISOR = Path(__file__).with_name("_supervisor.py")

#: Between two samples of the process tree: a hundredth of the time so far, in these bounds, s.
_SAMPLE_S = (0.02, 0.25)


@dataclass(frozen=True)
class Limits:
    """What a command may take; None: no limit. memory_bytes: address space of each process
    (RLIMIT_AS); file_bytes: size of each file (RLIMIT_FSIZE); cpu_s: CPU time of each process
    (RLIMIT_CPU); wall_s: time for all of it, after which everything is killed."""

    memory_bytes: int | None = None
    file_bytes: int | None = None
    cpu_s: float | None = None
    wall_s: float | None = None


@dataclass(frozen=True)
class Usage:
    """What a command and everything it started took: times in seconds, memory in KiB.

    user_s, system_s: CPU time. accounting: where they come from: `rusage`, `cgroup`, or
    `sampled` when the samples saw more than the system accounts for. wall_s: to the end of
    the last process. max_rss_kib: of the largest process. run_delay_s: how long threads
    waited for a CPU, sampled. second_thread_s: CPU time of threads and processes that ran
    beside another one of the tree, sampled. cpus: CPUs they were seen on. adopted: processes
    that outlived their parent. left_running: some had to be killed, LINGER_S after the
    command itself had ended.
    """

    user_s: float
    system_s: float
    wall_s: float
    max_rss_kib: int
    involuntary_switches: int
    run_delay_s: float = 0.0
    second_thread_s: float = 0.0
    cpus: tuple[int, ...] = ()
    adopted: int = 0
    left_running: bool = False
    accounting: str = "rusage"

    @property
    def cpu_s(self) -> float:
        """User and system time."""
        return self.user_s + self.system_s


def run_measured(
    argv: Sequence[str | os.PathLike],
    log_path: str | os.PathLike,
    on_line: Callable[[str], None] | None = None,
    core: int | None = None,
    limits: Limits = Limits(),
    cwd: str | os.PathLike | None = None,
    share_nice: int | None = None,
) -> Usage:
    """Run a command to its end, with stdout and stderr in log_path, and measure it alone.

    core: pin it to this CPU. on_line is called with each line as it comes. The command and
    all that it starts die with this process, whatever ends it. cwd: folder to run it in.
    share_nice: others share the core; this is added to its niceness, and it gets long turns.
    Raises FastpartError with the last log lines when it fails or exceeds a limit.
    """
    argv = [str(word) for word in argv]
    if core is not None and core not in os.sched_getaffinity(0):
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise FastpartError(f"core {core}: not available to this process, wanted one of {allowed}")
    last: deque[str] = deque(maxlen=8)
    room = LOG_CHARACTERS if limits.file_bytes is not None else sys.maxsize
    try:
        log = Path(log_path).open("w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise FastpartError(f"{log_path}: cannot be written ({error.strerror})") from error
    with log, _cgroup() as cgroup, tempfile.TemporaryFile("w+") as report_file:
        process = _start(argv, core, limits, cwd, share_nice, cgroup, report_file.fileno())
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            for line in iter(lambda: process.stdout.readline(LINE_CHARACTERS), ""):
                if room > 0:
                    log.write(line)
                    log.flush()
                    room -= len(line)
                if line.strip():
                    last.append(line.rstrip()[:200])
                if on_line:
                    on_line(line)
            process.wait()
        finally:
            # SIGTERM makes the supervisor kill what it watches before it ends.
            if process.poll() is None:
                process.terminate()
                process.wait()
            sampler.stop()
            process.stdout.close()
        counted = _cgroup_times(cgroup)
        report_file.seek(0)
        text = report_file.read()
    name = Path(argv[0]).name
    if not text:
        raise FastpartError(
            f"{name}: the process that supervises it was ended (exit code {process.returncode}), "
            f"wanted its report; log {log_path} ends with\n  " + "\n  ".join(last)
        )
    report = json.loads(text)
    if report["exec_error"]:
        raise FastpartError(f"{argv[0]}: cannot be run ({os.strerror(report['exec_error'])})")
    if report["timed_out"] or report["exit"]:
        raise FastpartError(
            f"{name}: {_ended(report, limits)}; log {log_path} ends with\n  " + "\n  ".join(last)
        )
    return _usage(report, counted, sampler)


def _start(argv, core, limits, cwd, share_nice, cgroup, report: int) -> subprocess.Popen:
    job = {
        "argv": argv, "core": core, "share_nice": share_nice, **asdict(limits), "linger_s": LINGER_S,
        "cgroup": cgroup and str(cgroup), "report": report, "parent": os.getpid(),
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SUPERVISOR), json.dumps(job)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True, pass_fds=(report,), cwd=cwd,
        )
    except OSError as error:
        raise FastpartError(f"{argv[0]}: cannot be run ({error.strerror})") from error


def _ended(report: dict, limits: Limits) -> str:
    if report["timed_out"]:
        return f"had not ended after {limits.wall_s:g} s and was killed, wanted less"
    if report["exit"] > 0:
        return f"exit code {report['exit']}, wanted 0"
    what = signal.Signals(-report["exit"]).name
    if what == "SIGXFSZ":
        what += f": a file larger than {limits.file_bytes} bytes"
    elif what in ("SIGXCPU", "SIGKILL") and limits.cpu_s is not None:
        what += f": more than {limits.cpu_s:g} s of CPU time, or killed"
    return f"signal {what}, wanted exit code 0"


def _usage(report: dict, counted: tuple[float, float] | None, sampler: _Sampler) -> Usage:
    user_s, system_s = report["user_s"], report["system_s"]
    accounting = "rusage"
    # A parent that ignores SIGCHLD keeps its children out of rusage, not out of a cgroup.
    if counted and sum(counted) > user_s + system_s:
        if sum(counted) > 1.01 * (user_s + system_s) + 0.05:
            accounting = "cgroup"
            user_s, system_s = counted
    elif sampler.cpu_s > 1.01 * (user_s + system_s) + 0.05:
        accounting = "sampled"
        user_s = sampler.cpu_s - system_s
    return Usage(
        user_s=user_s,
        system_s=system_s,
        wall_s=report["wall_s"],
        max_rss_kib=report["max_rss_kib"],
        involuntary_switches=report["involuntary_switches"],
        run_delay_s=sampler.run_delay_s,
        second_thread_s=sampler.second_thread_s,
        cpus=tuple(sorted(sampler.cpus)),
        adopted=report["adopted"],
        left_running=report["left_running"],
        accounting=accounting,
    )


# cgroup v2


@contextlib.contextmanager
def _cgroup() -> Iterator[Path | None]:
    """A new cgroup below this process's own, None where none can be made."""
    folder, parent = None, own_cgroup()
    if parent is None:
        yield None
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"fastpart-{os.getpid()}-", dir=parent))
        # What runs that were killed left behind.
        for old in parent.glob("fastpart-*-*"):
            if not Path("/proc", old.name.split("-")[1]).exists():
                _remove_cgroup(old, tries=1)
        folder.chmod(0o755)
        if not os.access(folder / "cgroup.procs", os.W_OK):
            raise OSError(errno.EACCES, "not writable")
        (folder / "cpu.stat").read_text()
    except OSError:
        if folder:
            _remove_cgroup(folder)
        folder = None
    try:
        yield folder
    finally:
        if folder:
            _remove_cgroup(folder)


def own_cgroup() -> Path | None:
    """The cgroup v2 folder of this process; None where there is none."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        memberships = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    root = next((line.split()[1] for line in mounts if line.split()[2] == "cgroup2"), None)
    own = next((line[3:] for line in memberships if line.startswith("0::")), None)
    return Path(root + own) if root and own else None


def _remove_cgroup(folder: Path, tries: int = 50) -> None:
    for _ in range(tries):
        try:
            folder.rmdir()
            return
        except OSError:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
            time.sleep(0.02)


def _cgroup_times(folder: Path | None) -> tuple[float, float] | None:
    """User and system seconds of a cgroup; None without one."""
    if folder is None:
        return None
    try:
        lines = (folder / "cpu.stat").read_text().splitlines()
    except OSError:
        return None
    stat = dict(line.split() for line in lines)
    return int(stat["user_usec"]) / 1e6, int(stat["system_usec"]) / 1e6


# Samples


@dataclass
class _Process:
    """What the samples saw of one process. cpu_s: of all its threads, ended ones included;
    tasks: (CPU seconds, seconds of waiting for a CPU) by thread."""

    cpu_s: float = 0.0
    tasks: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)


class _Sampler(threading.Thread):
    """Looks at the descendants of a process until stopped; the results are its attributes."""

    def __init__(self, root: int):
        super().__init__(daemon=True)
        self._root = root
        self._stop_event = threading.Event()
        self._processes: dict[tuple[int, str], _Process] = {}
        self._overlap_s = 0.0
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self.cpus: set[int] = set()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            # Where the main thread may run, off the core that the calling thread may be pinned to.
            os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
        start = time.monotonic()
        before: dict[tuple[int, str], float] = {}
        while not self._stop_event.is_set():
            before = self._sample(before)
            low, high = _SAMPLE_S
            self._stop_event.wait(min(high, max(low, (time.monotonic() - start) / 100)))

    def stop(self) -> None:
        self._stop_event.set()
        self.join()

    @property
    def cpu_s(self) -> float:
        """CPU time that the samples saw; less than all of it."""
        return sum(process.cpu_s for process in self._processes.values())

    @property
    def run_delay_s(self) -> float:
        return sum(
            delay for process in self._processes.values() for _, delay in process.tasks.values()
        )

    @property
    def second_thread_s(self) -> float:
        """CPU time of all but the busiest thread of each process, and of processes that ran
        beside a busier one."""
        threads = sum(
            max(0.0, process.cpu_s - max(cpu for cpu, _ in process.tasks.values()) - self._slack)
            for process in self._processes.values() if process.tasks
        )
        return threads + self._overlap_s

    @property
    def _slack(self) -> float:
        """Process times come in ticks and are read after those of the threads."""
        return 2 * self._tick_s

    def _sample(self, before: dict[tuple[int, str], float]) -> dict[tuple[int, str], float]:
        """One look; returns the CPU time by process."""
        now: dict[tuple[int, str], float] = {}
        for pid, stat in _descendants(self._root):
            key = pid, stat[19]
            process = self._processes.setdefault(key, _Process())
            with contextlib.suppress(OSError, ValueError):
                self._sample_tasks(pid, process)
            ticks = (int(stat[11]) + int(stat[12])) * self._tick_s
            threads = sum(cpu_s for cpu_s, _ in process.tasks.values())
            process.cpu_s = max(process.cpu_s, ticks, threads)
            now[key] = threads
        gains = [cpu_s - before[key] for key, cpu_s in now.items() if key in before]
        if len(gains) > 1:
            self._overlap_s += max(0.0, sum(gains) - max(gains))
        return now

    def _sample_tasks(self, pid: int, process: _Process) -> None:
        for name in os.listdir(f"/proc/{pid}/task"):
            folder = f"/proc/{pid}/task/{name}"
            stat = _stat(f"{folder}/stat")
            try:
                with open(f"{folder}/schedstat", "rb") as file:
                    cpu_ns, delay_ns, _ = map(int, file.read().split())
            except FileNotFoundError:
                # A kernel without schedstat: ticks, and no account of waiting.
                cpu_ns, delay_ns = (int(stat[11]) + int(stat[12])) * self._tick_s * 1e9, 0
            process.tasks[int(name), stat[19]] = cpu_ns / 1e9, delay_ns / 1e9
            if cpu_ns > 5e6:
                self.cpus.add(int(stat[36]))


def _stat(path: str) -> list[str]:
    """Fields of a /proc stat file from the third (state) on; see proc(5)."""
    with open(path, "rb") as file:
        return file.read().rpartition(b")")[2].decode().split()


def _descendants(root: int) -> list[tuple[int, list[str]]]:
    """(process ID, stat fields) of all processes below root."""
    stats: dict[int, list[str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stats[int(name)] = _stat(f"/proc/{name}/stat")
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(int(stat[1]), []).append(pid)
    found, queue = [], list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        found.append((pid, stats[pid]))
        queue += children.get(pid, ())
    return found
