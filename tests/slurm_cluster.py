"""A Slurm of one host for tests: munged, slurmctld and slurmd of their own in a folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

_CONF = """\
ClusterName=fastpart
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2
JobRequeue=1
ReturnToService=2
MinJobAge=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Feature=timing State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster, None if there can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return None if os.geteuid() == 0 else "slurmd wants root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Cluster:
    """Daemons of their own. folder: short, for the socket's name. env: what points commands at them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._host = socket.gethostname().partition(".")[0]
        conf = folder / "slurm.conf"
        conf.write_text(_CONF.format(
            folder=folder, host=self._host, cpus=self._cpus(), controller_port=_free_port(),
            node_port=_free_port(),
        ))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.env = {**os.environ, "SLURM_CONF": str(conf)}

    def _cpus(self) -> int:
        said = subprocess.run([_program("slurmd"), "-C"], check=True, capture_output=True, text=True)
        return int(re.search(r"CPUs=(\d+)", said.stdout)[1])

    def start(self) -> None:
        """Start all, and wait until the node takes jobs. Raises RuntimeError when it does not."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._run("munged", "--foreground", "--force", f"--key-file={key}",
                  f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
                  f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed")
        _until(lambda: (self.folder / "munge.socket").exists(), "munged")
        self.start_controller()
        self._run("slurmd", "-D", "-N", self._host)
        _until(lambda: "idle" in self._output("sinfo", "-h", "-o", "%T"), "the node")

    def start_controller(self) -> None:
        self._run("slurmctld", "-D", "-i")
        _until(lambda: "UP" in self._output("scontrol", "ping"), "slurmctld")

    def kill_controller(self) -> None:
        """kill -9 of slurmctld, once it has written down which jobs there are; what it has not, it
        does not know when it comes back."""
        begin = time.time()
        saved = self.folder / "state" / "job_state"
        _until(lambda: saved.exists() and saved.stat().st_mtime > begin, "the controller's state", 60)
        self.kill("slurmctld")

    def kill(self, name: str) -> None:
        """kill -9 of a daemon."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        subprocess.run(["scancel", "-u", "root"], env=self.env, check=False, capture_output=True)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.processes:
                self.processes[name].terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [_program(name), *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out,
            )

    def _output(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, check=False, capture_output=True, text=True)
        return done.stdout


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _until(condition, what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up in {seconds:.0f} s")
        time.sleep(0.1)
