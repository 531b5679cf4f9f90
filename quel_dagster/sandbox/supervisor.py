"""Child processes that start when what they need is ready, are watched, and all end with their supervisor.

Here: what a service is, and the `Supervisor` that runs a set of them. Which services make up an installation
is said in services.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from quel_dagster.errors import ServiceError

_TETHER = Path(__file__).with_name("tether.py")
#: marks every process of a home, grandchildren included, so that a later start finds what a crash left
MARK = "QUEL_SUPERVISED_HOME"
_PROBE_EVERY = 0.05
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """One child process: how it starts, when it counts as ready, how it stops."""

    name: str
    command: Sequence[str]
    #: True once it answers; called often, must return quickly, gets what it logged since its start
    ready: Callable[[LogTail], bool]
    #: what a person reads beside the name once it is ready, such as its address
    where: str = ""
    #: names of services that must be ready before this one starts, and that stop only after it
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: working directory; that of the supervisor when not given
    folder: str | None = None
    #: done before every start and after every ready, in the thread of the service
    prepare: Callable[[], None] | None = None
    settle: Callable[[], None] | None = None
    #: system user to run as, when the supervisor is root and the program refuses to be
    user: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    #: what the kernel sends when the supervisor is gone, however it ended
    death_signal: signal.Signals = signal.SIGKILL
    #: seconds for a clean stop before its process group is killed
    grace: float = 10.0
    #: seconds until it must be ready
    patience: float = 120.0


@dataclass(frozen=True)
class LogTail:
    """The part of a service's log that its present process wrote."""

    path: Path
    start: int

    def text(self) -> str:
        with self.path.open("rb") as log:
            log.seek(self.start)
            return log.read().decode(errors="replace")

    def last_lines(self, count: int = 12) -> str:
        lines = [line.rstrip() for line in self.text().splitlines() if line.strip()]
        return "\n".join(f"    {line}" for line in lines[-count:])


def tethered(command: Sequence[str], *, death_signal: signal.Signals, user: str = "") -> list[str]:
    """The command line that runs `command` as `user` and ends it with the calling thread."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(int(death_signal)), str(os.getpid()), user, *command]


def end_leftovers(home: Path, *, grace: float = 10.0) -> list[str]:
    """End every process that an earlier supervisor of `home` left behind; returns their names.

    Call it only while holding the lock of `home`.
    """
    left = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(home):
                left.append(process)
    for process in left:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGINT)  # to PostgreSQL: do not wait for clients
    _, alive = psutil.wait_procs(left, timeout=grace)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace)
    return [process.info["name"] for process in left]


class Keeper(threading.Thread):
    """Runs one service, in a thread that lives as long as its process (the kernel's tether is to the thread)."""

    def __init__(self, service: Service, supervisor: Supervisor) -> None:
        super().__init__(name=f"keeper-{service.name}", daemon=True)
        self.service = service
        self.is_ready = threading.Event()
        self.has_ended = threading.Event()
        self._supervisor = supervisor
        self._stopping = threading.Event()
        self._spawn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the service runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        """Start, watch, and start again with growing pauses, until told to stop."""
        pause = 1.0
        began_well = False
        try:
            while not self._stopping.is_set():
                since = time.monotonic()
                try:
                    self._run_once(began_well=began_well)
                    break
                except Exception as error:  # noqa: BLE001 - a keeper reports whatever went wrong
                    began_well = began_well or self.is_ready.is_set()
                    self.is_ready.clear()
                    if self._stopping.is_set():
                        return
                    if not (began_well and self._supervisor.restart):
                        self._supervisor.report_failure(error)
                        return
                    pause = 1.0 if time.monotonic() - since > _STEADY_AFTER else pause
                    self._supervisor.echo(f"{error}; starting again in {pause:.0f} s")
                    self._stopping.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self.is_ready.clear()
            self.has_ended.set()

    def _run_once(self, *, began_well: bool) -> None:
        """One life of the process; returns when it (or one it needs) was stopped.

        Raises:
            ServiceError: it ended by itself, or was not ready in time.
        """
        for need in self.service.needs:
            if not self._supervisor.wait_ready(need, self._stopping):
                return
        if self.service.prepare is not None:
            self.service.prepare()
        since = time.monotonic()
        log = LogTail(self._supervisor.log_path(self.service.name), self._supervisor.log_size(self.service.name))
        with self._spawn:
            if self._stopping.is_set():
                return
            process = self._process = self._popen(log)
        try:
            self._await_ready(process, log)
            if self._stopping.is_set():
                return
            if self.service.settle is not None:
                self.service.settle()
            how = "ready again" if began_well else "ready"
            line = f"{self.service.name}: {how} after {time.monotonic() - since:.1f} s  {self.service.where}"
            self._supervisor.echo(line.rstrip())
            self.is_ready.set()
            process.wait()
        finally:
            if not self._stopping.is_set():
                _kill_group(process)
        if not self._stopping.is_set():
            raise ServiceError(self._ending(process, log))

    def _popen(self, log: LogTail) -> subprocess.Popen[bytes]:
        service = self.service
        with log.path.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own command lines
                tethered(service.command, death_signal=service.death_signal, user=service.user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=service.folder,
                env={**os.environ, **service.environment, MARK: str(self._supervisor.home)},
                start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, which keeps the order
            )

    def _await_ready(self, process: subprocess.Popen[bytes], log: LogTail) -> None:
        deadline = time.monotonic() + self.service.patience
        while not self.service.ready(log):
            if process.poll() is not None:
                raise ServiceError(self._ending(process, log))
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.service.name} was not ready after {self.service.patience:.0f} s; see {log.path}"
                )
            if self._stopping.wait(_PROBE_EVERY):
                return

    def _ending(self, process: subprocess.Popen[bytes], log: LogTail) -> str:
        code = process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._supervisor.echo(f"{self.service.name}: the end of its log\n{log.last_lines()}")
        return f"{self.service.name} ended {how}; its log is {log.path}"

    def stop(self, hurry: threading.Event) -> None:
        """End the process: its stop signal, then after the grace (or at once in a `hurry`) SIGKILL to its group."""
        with self._spawn:
            self._stopping.set()
            process = self._process
        if process is not None:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(self.service.stop_signal)
            deadline = time.monotonic() + self.service.grace
            while process.poll() is None and time.monotonic() < deadline and not hurry.is_set():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PROBE_EVERY)
            if process.poll() is None:
                self._supervisor.echo(f"{self.service.name}: did not stop in time; killed")
            _kill_group(process)
            process.wait()
        self.join()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL whatever is left of the process and of its group (children of a worker that died)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Supervisor:
    """Runs services in the order of their needs, as many at once as that order allows.

    Args:
        services: what to run; names are unique, needs name other services of the same set.
        home: the installation's folder, which marks the processes; must be locked by the caller.
        logs: folder of the log files, one per service; the file of the run before is kept as `.1`.
        echo: called with one line per event, from several threads.
        restart: start a service again when it ends by itself after it was once ready; else that is a failure.
    """

    def __init__(
        self, services: Sequence[Service], *, home: Path, logs: Path, echo: Echo, restart: bool = True
    ) -> None:
        self.home = home
        self.echo = echo
        self.restart = restart
        self._logs = logs
        self._keepers = {service.name: Keeper(service, self) for service in services}
        self._failed = threading.Event()
        self._failure: Exception | None = None
        self._hurry = threading.Event()

    def start(self) -> None:
        """Start everything and return once all are ready.

        Raises:
            ServiceError: one did not start; the others have been stopped.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._keepers:
            with suppress(FileNotFoundError):
                self.log_path(name).replace(self.log_path(name).with_suffix(".log.1"))
        for keeper in self._keepers.values():
            keeper.start()
        try:
            for keeper in self._keepers.values():
                while not keeper.is_ready.wait(_PROBE_EVERY):
                    self.check()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, those that need others first; returns when no process is left."""
        stoppers = [threading.Thread(target=self._stop_one, args=(name,)) for name in self._keepers]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def hurry(self) -> None:
        """Make a `stop` under way kill what has not ended yet."""
        self._hurry.set()

    def check(self) -> None:
        """Raise the failure of a service that ended for good, if there is one."""
        if self._failure is not None:
            raise self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a service has failed for good; False when `timeout` seconds passed without."""
        return self._failed.wait(timeout)

    def pids(self) -> dict[str, int]:
        """The process id of every running service."""
        return {name: keeper.pid for name, keeper in self._keepers.items() if keeper.pid is not None}

    def state(self, name: str) -> Literal["ready", "ended", "starting"]:
        keeper = self._keepers[name]
        return "ready" if keeper.is_ready.is_set() else "ended" if keeper.has_ended.is_set() else "starting"

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def log_size(self, name: str) -> int:
        path = self.log_path(name)
        return path.stat().st_size if path.exists() else 0

    def report_failure(self, error: Exception) -> None:
        """Called by a keeper whose service ended for good; the first one is kept."""
        if self._failure is None:
            self._failure = error
        self._failed.set()

    def wait_ready(self, name: str, stopping: threading.Event) -> bool:
        """Wait for a service that another one needs; False when that other one is to stop or this one ended."""
        keeper = self._keepers[name]
        while not keeper.is_ready.wait(_PROBE_EVERY):
            if stopping.is_set() or keeper.has_ended.is_set():
                return False
        return not stopping.is_set()

    def _stop_one(self, name: str) -> None:
        for keeper in self._keepers.values():
            if name in keeper.service.needs and keeper.ident is not None:
                keeper.has_ended.wait()
        keeper = self._keepers[name]
        if keeper.ident is not None:
            keeper.stop(self._hurry)
