"""The process in which solutions are judged: a fresh interpreter that is kept warm, and the pipe to it.

`python -m paylab.lab.judging.judge_process` is the far end. A solution may loop for ever, crash or leave
the process in any state; the near end then kills the process and starts another. It is a precaution, no
sandbox.
"""

import atexit
import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import cloudpickle

# A case takes a tenth of a second; when one takes so long, something holds the interpreter.
CASE_MAX_S = 30.0
BOOT_MAX_S = 60.0
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Request:
    """Judge this."""

    exercise: str
    # A solution as cloudpickle wrote it.
    solution: bytes
    seeds: tuple[int, ...]
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class At:
    """The case that is judged now."""

    check: str
    case: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """A call did not end; `call` is empty when the process cannot say which."""

    check: str
    case: int
    call: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Everything was judged, or nothing: the starter is untouched, or the solution could not be unpacked."""

    untouched: bool = False
    unreadable: str = ""
    # Processor time that judging took.
    busy_s: float = 0.0


def _write(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    """The next message. Raises EOFError at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pickle.loads(pipe.read(_LENGTH.unpack(head)[0]))  # noqa: S301 - our own process wrote it


class JudgeProcess:
    """The near end."""

    def __init__(self) -> None:
        """Start it; that takes about as long as importing paylab."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paylab.lab.judging.judge_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._messages: queue.Queue[Any] = queue.Queue()
        self._warm = False
        threading.Thread(target=self._listen, name="paylab-judge", daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
            while True:
                self._messages.put(_read(self._stdout))
        self._messages.put(None)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def judge(self, request: Request) -> Iterator[Any]:
        """Results, then Stuck or Done. Afterwards kill it unless it was Done."""
        try:
            _write(self._stdin, request)
        except OSError:
            yield Stuck("", 0)
            return
        last = At("", 0)
        while True:
            try:
                message = self._messages.get(timeout=CASE_MAX_S if self._warm else BOOT_MAX_S)
            except queue.Empty:
                message = None
            self._warm = True
            if isinstance(message, At):
                last = message
            elif message is None:
                yield Stuck(last.check, last.case)
                return
            else:
                yield message
                if isinstance(message, Stuck | Done):
                    return

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()


_WARM: list[JudgeProcess] = []
_LOCK = threading.Lock()


def warm() -> JudgeProcess:
    """The process, started if there is none."""
    with _LOCK:
        if not _WARM or not _WARM[0].alive:
            _WARM[:] = [JudgeProcess()]
        return _WARM[0]


def cool() -> None:
    """End it; the next one is fresh."""
    with _LOCK:
        for process in _WARM:
            process.kill()
        _WARM.clear()


atexit.register(cool)


def ask(request: Request) -> Iterator[Any]:
    """Have a request judged by the warm process; a process that cannot go on is replaced."""
    process, done = warm(), False
    try:
        for message in process.judge(request):
            done = isinstance(message, Done)
            yield message
    finally:
        if not done:
            cool()
            warm()


def packed(solution: Any) -> bytes:
    """A solution ready to travel, with the code that is not installed. Raises TypeError or its like."""
    module = sys.modules.get(getattr(solution, "__module__", None) or "")
    here = module is not None and module.__name__ != "__main__" and not _installed(module.__name__)
    if here:
        cloudpickle.register_pickle_by_value(module)
    try:
        data: bytes = cloudpickle.dumps(solution)
    finally:
        if here:
            cloudpickle.unregister_pickle_by_value(module)
    return data


def _installed(name: str) -> bool:
    first = name.partition(".")[0]
    return first in ("paylab", "builtins") or first in sys.stdlib_module_names


# The far end ------------------------------------------------------------------------------------


def main() -> None:
    """Judge one request after the other until the pipe ends."""
    # What a solution prints goes nowhere: standard output belongs to the messages.
    pipe = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    inbox = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    far = _FarEnd(pipe)
    with contextlib.suppress(EOFError):
        while True:
            far.judge(_read(inbox))


class _FarEnd:
    def __init__(self, pipe: IO[bytes]) -> None:
        from paylab.lab.judging import exercises, exercises_08, judging  # noqa: F401, PLC0415 - the near end needs none

        self._pipe = pipe
        self._lock = threading.Lock()
        self._at = At("", 0)
        self._exercises, self._judging = exercises, judging
        self._watchdog = judging.Watchdog(self._stuck)

    def judge(self, request: Request) -> None:
        began_s = time.process_time()
        sys.path[:] = dict.fromkeys([*sys.path, *request.path])
        try:
            mine = pickle.loads(request.solution)  # noqa: S301 - a solution is code, and running it is the point
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            self._say(Done(unreadable=f"{type(error).__name__}: {error}"))
            return
        judge = self._judging.Judge(
            self._exercises.find(request.exercise),
            mine,
            request.seeds,
            begin=self._watchdog.begin,
            end=self._watchdog.end,
            at=self._now_at,
        )
        try:
            for result in judge.results():
                self._say(result)
        except self._judging.Untouched:
            self._say(Done(untouched=True))
            return
        self._say(Done(busy_s=time.process_time() - began_s))

    def _now_at(self, check: str, case: int) -> None:
        self._at = At(check, case)
        self._say(self._at)

    def _say(self, message: Any) -> None:
        with self._lock:
            _write(self._pipe, message)

    def _stuck(self, call: str) -> None:
        self._say(Stuck(self._at.check, self._at.case, call))
        os._exit(1)


def paths() -> tuple[str, ...]:
    """Where this process finds its modules."""
    return tuple(sys.path)


def as_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as they travel. Raises ValueError."""
    found = tuple(int(seed) for seed in seeds)
    if not found:
        raise ValueError("at least one seed is needed")
    return found


if __name__ == "__main__":
    # What travels names its classes by the module's own name, which here is another.
    import_module("paylab.lab.judging.judge_process").main()
