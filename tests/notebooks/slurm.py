"""A SLURM cluster of one node on the loopback, with accounting: munge, MariaDB, slurmdbd, slurmctld and slurmd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
SITE = Path("/etc/slurm/slurm.conf")  # where jobs look: the plugin hides the variables of SLURM from them
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian puts daemons
CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
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
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
OverTimeLimit=0
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStorageEnforce=associations,limits
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={ports[2]}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[3]}
StorageUser=slurm
StoragePass=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def missing() -> str:
    """Return why no cluster can be started here; empty if it can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm slurmdbd munge mariadb-server"
    if os.geteuid():
        return "slurmd must run as root"
    return f"this machine has its own SLURM: {SITE}" if SITE.exists() else ""


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def until(done: list[str], environment: Mapping[str, str], seconds: float = 60) -> None:
    """Repeat a command until it succeeds."""
    end = time.monotonic() + seconds
    while (last := subprocess.run(done, env=environment, capture_output=True, text=True, check=False)).returncode:
        if time.monotonic() > end:
            raise TimeoutError(f"{' '.join(done)}: {last.stderr}")
        time.sleep(0.5)


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons in ``folder`` and give the environment of a login node."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    ports, host = free_ports(4), socket.gethostname().split(".")[0]
    for name in ("state", "spool", "data"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=ports, host=host))
    (folder / "slurmdbd.conf").write_text(DATABASE.format(folder=folder, ports=ports))
    (folder / "slurmdbd.conf").chmod(0o600)
    for name in ("gpu0", "gpu1"):  # stand in for devices: jobs are given them and use none
        (folder / name).touch()
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "PATH": PATH}
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (folder / f"{command[0]}.out").open("wb")
        own = {**environment, "SLURM_CONF": str(folder / "slurm.conf")}  # and the other files beside it
        daemons.append(subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True))

    SITE.unlink(missing_ok=True)  # a link to a cluster that is gone
    SITE.parent.mkdir(exist_ok=True)
    SITE.symlink_to(folder / "slurm.conf")
    try:
        start(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
            f"--log-file={folder}/munge.log", f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        install = ["mariadb-install-db", f"--datadir={folder}/data", "--user=root", "--auth-root-authentication-method=normal"]  # fmt: skip
        subprocess.run([*install, "--skip-test-db"], env=environment, check=True, capture_output=True)
        start(
            "mariadbd", "--no-defaults", f"--datadir={folder}/data", "--user=root", f"--socket={folder}/mariadb.socket",
            "--bind-address=127.0.0.1", f"--port={ports[3]}", "--innodb-buffer-pool-size=64M",
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", f"--socket={folder}/mariadb.socket", "-u", "root", "-e"]
        grant = "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON *.* TO slurm@'127.0.0.1'; CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON *.* TO slurm@localhost;"  # fmt: skip
        until([*client, "SELECT 1"], environment)
        subprocess.run([*client, grant], env=environment, check=True, capture_output=True)
        start("slurmdbd", "-D")
        until(["sacctmgr", "-i", "show", "cluster"], environment)
        for entity in (["cluster", "loopback"], ["account", "lab"], ["user", "root", "account=lab"]):
            subprocess.run(["sacctmgr", "-i", "add", *entity], env=environment, check=False, capture_output=True)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)
        until(["sh", "-c", "sinfo -h -o %t | grep -q idle"], environment)
        yield environment
    finally:
        SITE.unlink()
        for daemon in reversed(daemons):  # the database last
            if daemon.poll() is None:
                os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
