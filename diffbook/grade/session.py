"""The grader's side of a box: ask, wait no longer than allowed, believe nothing but numbers."""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import diffbook
from diffbook.grade import wire
from diffbook.grade.box import Plan

KEEP_OUTPUT = 20_000  # bytes of what a hand-in prints


class Ended(Exception):
    """The student's process is gone, or was ended; the message says why."""


class Nursery:
    """The process that boxes are forked from, started once for a batch."""

    def __init__(self) -> None:
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HOME": "/nonexistent",
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", ""),
            "PYTHONPATH": str(Path(diffbook.__file__).resolve().parent.parent),
        }
        environment |= {n: os.environ[n] for n in ("DIFFBOOK_BOX_AS_USER",) if n in os.environ}
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", "diffbook.grade.nursery", str(other.fileno())],
                pass_fds=[other.fileno()], env={k: v for k, v in environment.items() if v},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                cwd="/",
            )
        self._sock = mine
        self._lock = threading.Lock()
        mine.settimeout(120)
        try:
            self.levels: list[str] = json.loads(mine.recv(1 << 16))["levels"]
        except (OSError, ValueError) as error:
            self.close()
            raise RuntimeError(
                "the process for hand-ins did not start; does `python -m diffbook.grade.nursery 0` "
                "import everything?"
            ) from error

    def open(self, plan: Plan) -> Box:
        channel, theirs = socket.socketpair()
        control, warden = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._sock, [json.dumps(plan.plain()).encode()],
                                [theirs.fileno(), writer, warden.fileno()])
        finally:
            theirs.close()
            warden.close()
            os.close(writer)
        return Box(channel, control, reader, plan)

    def close(self) -> None:
        self._sock.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Box:
    """One box: a student's process, what it prints, and the warden's word."""

    def __init__(self, channel: socket.socket, control: socket.socket, output: int, plan: Plan):
        self._channel, self._control, self._output, self.plan = channel, control, output, plan
        os.set_blocking(output, False)
        channel.setblocking(False)
        self.printed = 0
        self._kept = bytearray()
        self._keeping = True
        started = self._word(60)
        if "started" not in started:
            self.close()
            raise RuntimeError(f"no box could be made: {started.get('failed', 'no answer')}")

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request, return the answer. Ended if there is none, in time and in order."""
        token = secrets.token_hex(16)
        deadline = time.monotonic() + seconds
        progress = ""
        cells = 0
        try:
            wire.send(self._channel, request | {"token": token}, deadline)
            while True:
                answer = wire.receive(self._channel, deadline, self._drain)
                if not isinstance(answer, dict) or answer.pop("token", None) != token:
                    raise wire.WireError("an answer that nobody had asked for")
                if type(answer.get("cell")) is not int or cells > 5000:
                    self._drain()
                    return answer
                cells, progress = cells + 1, f"in cell {answer['cell']}"
                self.cell = answer["cell"]
        except wire.WireTimeout:
            self.close()
            raise Ended(f"it took longer than {seconds:.0f} s {progress}".strip()) from None
        except wire.WireClosed:
            raise Ended(f"the process ended ({self._why()}) {progress}".strip()) from None
        except wire.WireError as error:
            self.close()
            raise Ended(f"it wrote to the grader's connection: {error}") from None

    cell = 0  # the last cell that was begun

    def stop_keeping(self) -> None:
        """From here on, what is printed is counted and dropped: it may tell the hidden inputs."""
        self._drain()
        self._keeping = False

    @property
    def output(self) -> str:
        return self._kept.decode("utf-8", errors="replace")

    def _drain(self) -> None:
        """Read what was printed, so that nobody waits; past the limit, the box is closed."""
        for _ in range(64):
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                return
            if not part:
                return
            self.printed += len(part)
            if self._keeping and len(self._kept) < KEEP_OUTPUT:
                self._kept += part[: KEEP_OUTPUT - len(self._kept)]
            if self.printed > self.plan.limits.output:
                size = self.plan.limits.output >> 20
                self.close()
                raise Ended(f"it printed more than {size} MiB")

    def _word(self, seconds: float) -> dict[str, Any]:
        """The warden's next message, {} if there is none."""
        if not select.select([self._control], [], [], seconds)[0]:
            return {}
        data = self._control.recv(1 << 16)
        return json.loads(data) if data else {}

    def _why(self) -> str:
        word = {} if self._control.fileno() < 0 else self._word(5)
        self.close()
        return str(word.get("ended") or "no reason is known")

    def close(self) -> None:
        """End the box with everything in it, and wait until it is gone."""
        if self._control.fileno() < 0:
            return
        try:
            self._control.shutdown(socket.SHUT_WR)
            self._word(5)
        except OSError:
            pass  # the warden is gone already
        self._control.close()
        self._channel.close()
        os.close(self._output)
        self._output = -1

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
