"""Start child processes in the order of their dependencies, watch them, and end them with the supervisor.

Responsibilities: what a service is, and the `Supervisor` that runs a set of them. Not here: which services make up
an installation (`stack`).
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

from quel_dagster.adapters.retry_policy import RESTART
from quel_dagster.errors import ServiceError
from quel_dagster.services.forked import ForkedProcess

_TETHER = Path(__file__).with_name("tether.py")
#: marks every process of a home, grandchildren included, so that a later start finds those left by a crash
MARK = "QUEL_SUPERVISED_HOME"
_PROBE_EVERY = 0.05
#: seconds after which a service that ends is restarted as if for the first time
_STEADY_AFTER = 60.0

Echo = Callable[[str], None]
Process = subprocess.Popen[bytes] | ForkedProcess


@dataclass(frozen=True)
class Service:
    """One child process: how it starts, when it is ready, how it stops."""

    name: str
    command: Sequence[str]
    #: returns True once the process answers; called often, must return quickly; gets the log since its start
    ready: Callable[[LogTail], bool]
    #: shown beside the name once it is ready, such as its address
    where: str = ""
    #: names of services that must be ready before this one starts, and that stop only after it
    needs: tuple[str, ...] = ()
    #: socket of the fork server that starts this Python module, with that server's environment and folder; None: exec
    fork_server: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: working directory; default: that of the supervisor
    folder: str | None = None
    #: called before every start and after every ready, in the thread of the service
    prepare: Callable[[], None] | None = None
    settle: Callable[[], None] | None = None
    #: system user to run as, when the supervisor is root and the program refuses root
    user: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    #: sent by the kernel when the supervisor has ended, in any way
    death_signal: signal.Signals = signal.SIGKILL
    #: seconds for a clean stop before its process group is killed
    grace: float = 10.0
    #: seconds until it must be ready
    ready_seconds: float = 120.0


@dataclass(frozen=True)
class LogTail:
    """The log of a service since its current process started."""

    path: Path
    start: int

    def text(self) -> str:
        with self.path.open("rb") as log:
            log.seek(self.start)
            return log.read().decode(errors="replace")

    def last_lines(self) -> str:
        lines = [line.rstrip() for line in self.text().splitlines() if line.strip()]
        return "\n".join(f"    {line}" for line in lines[-12:])


def tethered(command: Sequence[str], *, death_signal: signal.Signals, user: str = "") -> list[str]:
    """Return the command line that runs `command` as `user` and ends it with the calling thread."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(int(death_signal)), str(os.getpid()), user, *command]


def end_leftovers(home: Path, *, grace: float = 10.0) -> list[str]:
    """End every process that an earlier supervisor of `home` left running; return their names.

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


class ServiceThread(threading.Thread):
    """Runs one service, in a thread that lives as long as its process (the kernel binds the process to the thread)."""

    def __init__(self, service: Service, supervisor: Supervisor) -> None:
        super().__init__(name=f"thread-{service.name}", daemon=True)
        self.service = service
        self.is_ready = threading.Event()
        self.has_ended = threading.Event()
        self._supervisor = supervisor
        self._stopping = threading.Event()
        self._spawn = threading.Lock()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the service runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        """Start, watch, and restart with growing pauses, until stopped."""
        failures = 0
        began_well = False
        try:
            while not self._stopping.is_set():
                since = time.monotonic()
                try:
                    self._run_once(began_well=began_well)
                    break
                except Exception as error:  # noqa: BLE001 - reports every failure of its service
                    began_well = began_well or self.is_ready.is_set()
                    self.is_ready.clear()
                    if self._stopping.is_set():
                        return
                    if not (began_well and self._supervisor.restart):
                        self._supervisor.report_failure(error)
                        return
                    failures = 1 if time.monotonic() - since > _STEADY_AFTER else failures + 1
                    pause = RESTART.pause(failures)
                    self._supervisor.echo(f"{error}; restarting in {pause:.0f} s")
                    self._stopping.wait(pause)
        finally:
            self.is_ready.clear()
            self.has_ended.set()

    def _run_once(self, *, began_well: bool) -> None:
        """Run the process once; return when it (or a dependency) was stopped.

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

    def _popen(self, log: LogTail) -> Process:
        service = self.service
        with log.path.open("ab") as output:
            if service.fork_server is not None:
                module = service.command[service.command.index("-m") + 1 :]
                return ForkedProcess(
                    service.fork_server, module, output=output.fileno(), death_signal=service.death_signal
                )
            return subprocess.Popen(  # noqa: S603 - the command lines of this package
                tethered(service.command, death_signal=service.death_signal, user=service.user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=service.folder,
                env={**os.environ, **service.environment, MARK: str(self._supervisor.home)},
                start_new_session=True,  # Ctrl-C in a terminal reaches only the supervisor, which stops in order
            )

    def _await_ready(self, process: Process, log: LogTail) -> None:
        deadline = time.monotonic() + self.service.ready_seconds
        while not self.service.ready(log):
            if process.poll() is not None:
                raise ServiceError(self._ending(process, log))
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.service.name} was not ready after {self.service.ready_seconds:.0f} s; see {log.path}"
                )
            if self._stopping.wait(_PROBE_EVERY):
                return

    def _ending(self, process: Process, log: LogTail) -> str:
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


def _kill_group(process: Process) -> None:
    """SIGKILL the process and the rest of its group (children of a worker that died)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Supervisor:
    """Runs services in the order of their dependencies, as many at once as that order allows.

    Args:
        services: the services to run; names are unique, needs name other services of the same set.
        home: the installation's folder, which marks the processes; must be locked by the caller.
        logs: folder of the log files, one per service; the previous file is kept as `.1`.
        echo: called with one line per event, from several threads.
        restart: restart a service that ends by itself after it was once ready; else that is a failure.
    """

    def __init__(
        self, services: Sequence[Service], *, home: Path, logs: Path, echo: Echo, restart: bool = True
    ) -> None:
        self.home = home
        self.echo = echo
        self.restart = restart
        self._logs = logs
        self._threads = {service.name: ServiceThread(service, self) for service in services}
        self._failed = threading.Event()
        self._failure: Exception | None = None
        self._hurry = threading.Event()

    def start(self) -> None:
        """Start everything and return once all are ready.

        Raises:
            ServiceError: one did not start; the others have been stopped.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._threads:
            with suppress(FileNotFoundError):
                self.log_path(name).replace(self.log_path(name).with_suffix(".log.1"))
        for thread in self._threads.values():
            thread.start()
        try:
            for thread in self._threads.values():
                while not thread.is_ready.wait(_PROBE_EVERY):
                    self.check()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, dependents first; return when no process is left."""
        stoppers = [threading.Thread(target=self._stop_one, args=(name,)) for name in self._threads]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def hurry(self) -> None:
        """Let a running `stop` kill the remaining processes."""
        self._hurry.set()

    def check(self) -> None:
        """Raise the failure of a service that ended permanently, if there is one."""
        if self._failure is not None:
            raise self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a service has failed permanently; False when `timeout` seconds passed without."""
        return self._failed.wait(timeout)

    def pids(self) -> dict[str, int]:
        """The process id of every running service."""
        return {name: thread.pid for name, thread in self._threads.items() if thread.pid is not None}

    def state(self, name: str) -> Literal["ready", "ended", "starting"]:
        thread = self._threads[name]
        return "ready" if thread.is_ready.is_set() else "ended" if thread.has_ended.is_set() else "starting"

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def log_size(self, name: str) -> int:
        path = self.log_path(name)
        return path.stat().st_size if path.exists() else 0

    def report_failure(self, error: Exception) -> None:
        """Record that a service ended permanently; the first failure is kept."""
        if self._failure is None:
            self._failure = error
        self._failed.set()

    def wait_ready(self, name: str, stopping: threading.Event) -> bool:
        """Wait for a service that another one needs; False when that other one is to stop or this one ended."""
        thread = self._threads[name]
        while not thread.is_ready.wait(_PROBE_EVERY):
            if stopping.is_set() or thread.has_ended.is_set():
                return False
        return not stopping.is_set()

    def _stop_one(self, name: str) -> None:
        for thread in self._threads.values():
            if name in thread.service.needs and thread.ident is not None:
                thread.has_ended.wait()
        thread = self._threads[name]
        if thread.ident is not None:
            thread.stop(self._hurry)
