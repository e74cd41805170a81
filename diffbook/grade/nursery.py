"""The process that all boxes are forked from: it has imported torch once, and knows no tests.

It is a fresh interpreter, started before the grader reads a bundle, with an empty environment. For
each box it forks a *warden*, which makes the box, starts the student's process in it, watches its
memory and ends it. The student's process is a copy of the nursery's memory, never of the grader's.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from diffbook.grade import box, child

PAUSE = 0.2  # seconds between two looks at a box's memory


def main(number: int) -> None:
    """Serve requests on the socket with this file descriptor until it closes."""
    _warm_up()
    sock = socket.socket(fileno=number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock.send(json.dumps({"levels": box.levels_here()}).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # wardens need no burial
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 3)
        if not data:
            return
        plan = box.Plan.of(json.loads(data))
        if os.fork() == 0:
            try:
                sock.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _warden(plan, *fds)
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)


def _warm_up() -> None:
    """Import what assignments use. No computing: threads would not survive the fork."""
    import matplotlib

    matplotlib.use("Agg")
    for name in ("IPython.core.inputtransformer2", "IPython.display", "matplotlib.pyplot",
                 "torch.nn.functional", "tqdm"):
        importlib.import_module(name)


# ---------------------------------------------------------------------------------------------
# The warden


def _warden(plan: box.Plan, channel: int, output: int, control: int) -> None:
    """Make a box, start the student's process, and report on ``control`` how it ended."""
    box.die_with_parent(signal.SIGKILL)
    box.adopt_orphans()
    report = socket.socket(fileno=control)
    os.umask(0o022)
    try:
        if plan.level == "namespaces":
            box.enter_namespaces()
            box.build_root(plan.scratch, plan)
        else:
            uid = box.FIRST_UID + plan.slot if plan.level == "user" else None
            box.private_folder(plan.scratch, uid)
        pid = os.fork()
    except OSError as error:
        _tell(report, {"failed": f"{error}"})
        return
    if pid == 0:
        report.close()
        _inner(plan, channel, output)
    os.close(channel)
    os.close(output)
    _tell(report, {"started": True})
    ended = _watch(pid, report, plan)
    _kill_all(pid, plan)
    status = os.waitpid(pid, 0)[1]
    _bury()
    _tell(report, {"ended": ended or _status(status)})


def _inner(plan: box.Plan, channel: int, output: int) -> None:
    """The student's process: into the box, out of all rights, then serve."""
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sock = socket.socket(fileno=os.dup(channel))
        keep = {0, 1, 2, sock.fileno()}
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        _close_others(keep)
        home = plan.scratch
        if plan.level == "namespaces":
            box.move_into(plan.scratch)
            home = "/tmp"
        os.chdir(home)
        os.environ.clear()
        os.environ.update(environment(home))
        box.drop_rights(plan)
        box.die_with_parent(signal.SIGKILL)
        child.live(sock, plan.packages)
    except BaseException as error:  # the grader is told by the closed channel; this is for a log
        os.write(2, f"\n{type(error).__name__}: {error}\n"[:500].encode())
    finally:
        os._exit(0)


def environment(home: str) -> dict[str, str]:
    """All that the student's process finds in its environment."""
    return {
        "PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "USER": "student",
        "LOGNAME": "student", "LANG": "C.UTF-8", "MPLBACKEND": "Agg", "MPLCONFIGDIR": home,
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DIFFBOOK_STATIC": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1",
    }


def _close_others(keep: set[int]) -> None:
    previous = 2
    for fd in sorted(keep - {0, 1, 2}):
        os.closerange(previous + 1, fd)
        previous = fd
    os.closerange(previous + 1, 4096)


def _tell(report: socket.socket, message: dict[str, Any]) -> None:
    try:
        report.send(json.dumps(message).encode())
    except OSError:
        pass  # the grader is gone; nobody is left to be told


def _watch(pid: int, report: socket.socket, plan: box.Plan) -> str:
    """Wait for the process's end, the grader's word, or too much memory; why it has to end."""
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(report, select.POLLIN)
    start = _resident(_family(pid))
    while True:
        for fd, _ in poll.poll(PAUSE * 1000):
            return "" if fd == process else "closed"
        family = _family(pid)
        if _resident(family) > start + plan.limits.memory and (
            _proportional(family) > start + plan.limits.memory
        ):
            return f"memory: more than {plan.limits.memory >> 20} MiB"


def _family(pid: int) -> list[int]:
    """The process and all its descendants. Orphans come to the first process of the box, or to
    the warden, so nobody gets lost."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid, *parents.get(os.getpid(), [])]
    while todo:
        one = todo.pop()
        if one not in found:
            found.append(one)
            todo += parents.get(one, [])
    return found


def _resident(pids: list[int]) -> int:
    """Bytes in memory, quickly: what processes share is counted in each."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue  # it ended meanwhile
        total += (int(fields[1]) - int(fields[2])) * 4096 if len(fields) > 2 else 0
    return total


def _proportional(pids: list[int]) -> int:
    """Bytes in memory, what processes share divided among them: slower."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def _kill_all(pid: int, plan: box.Plan) -> None:
    """End the box with everything in it."""
    if plan.level == "namespaces":
        os.kill(pid, signal.SIGKILL)  # the kernel ends the others with the first
        return
    if plan.level == "user":
        helper = os.fork()
        if helper == 0:  # everything that belongs to the box's user, at one stroke
            uid = box.FIRST_UID + plan.slot
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for _ in range(3):
                try:
                    os.kill(-1, signal.SIGKILL)
                except ProcessLookupError:
                    break
            os._exit(0)
        os.waitpid(helper, 0)
    seen: set[int] = set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # stop first, so that nobody forks while others are ended
        family = [one for one in _family(pid) if one != os.getpid()]
        for one in family:
            try:
                os.kill(one, signal.SIGSTOP)
            except ProcessLookupError:
                continue
        if set(family) <= seen:
            break
        seen |= set(family)
    for one in seen | {pid}:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _bury() -> None:
    """Wait for the orphans that came to the warden: nothing of a box outlives its end."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return


def _status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


if __name__ == "__main__":
    main(int(sys.argv[1]))
