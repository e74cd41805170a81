"""The box a student's code runs in: a process with another user, few rights and little to see.

Linux only, by the kernel's own means, called through ctypes:

- ``namespaces``: an own file system (only Python's folders, the allowed part of this package and a
  small scratch folder are there), no network, own process numbers (all processes of the box die
  with the first one), and another user. It needs to be root, or a kernel that lets users make
  namespaces.
- ``user``: another user and limits. Needs root. For containers that forbid namespaces: the
  container has to keep the network away.
- ``limits``: limits of time, memory and files only, as the same user. For a trusted folder.

At every level a filter refuses the system calls that no notebook needs, those that make further
namespaces or mount something among them.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LEVELS = ("namespaces", "user", "limits")
FIRST_UID = 64000  # users of the boxes that root makes: one for each box running at a time

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 4, 38, 1
_PR_SET_CHILD_SUBREAPER, _PR_SET_SECCOMP = 36, 22
_DETACH = 2

# What a program needs of the system to start; nothing of it is anybody's own.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache",
          "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/fonts", "/etc/localtime",
          "/etc/alternatives", "/opt")
DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Limits:
    """What one hand-in may use."""

    cell: float = 60  # seconds of computing for one cell, and three times that on the clock
    cells: float = 240  # seconds on the clock for all cells
    call: float = 30  # seconds on the clock for one test
    total: float = 600  # seconds on the clock for everything, new starts included
    memory: int = 2 << 30  # bytes more than Python with torch has
    processes: int = 64  # and threads
    files: int = 64 << 20  # bytes in the scratch folder
    output: int = 32 << 20  # bytes printed before the box is closed


@dataclass(frozen=True)
class Plan:
    """How to make a box; sent to the nursery as plain values."""

    level: str
    slot: int
    packages: str  # folder of this package as far as it is allowed
    scratch: str  # folder of the box where there are no namespaces
    hide: tuple[str, ...] = ()  # other packages that would give the answers away
    limits: Limits = field(default_factory=Limits)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(plain: dict[str, Any]) -> Plan:
        rest = {k: v for k, v in plain.items() if k != "limits"}
        rest["hide"] = tuple(rest["hide"])
        return Plan(**rest, limits=Limits(**plain["limits"]))


# ---------------------------------------------------------------------------------------------
# System calls


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _bytes(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call("mount", _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags),
          os.fsencode(data) if data else None)


def not_inspectable() -> None:
    """No other process of this user may read this one's memory."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


# ---------------------------------------------------------------------------------------------
# Which level works here


def levels_here() -> list[str]:
    """The levels of this machine, the strongest first; it tries each in a child process."""
    found = ["limits"]
    if sys.platform == "linux" and os.geteuid() == 0 and _works(_try_user):
        found.insert(0, "user")
    if sys.platform == "linux" and _works(_try_namespaces):
        found.insert(0, "namespaces")
    return found


def _works(attempt: Any) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except BaseException:  # whatever went wrong: the level does not work here
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _try_namespaces() -> None:
    enter_namespaces()
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m")


def _try_user() -> None:
    os.setgroups([])
    os.setgid(FIRST_UID)
    os.setuid(FIRST_UID)
    # An interpreter in the superuser's home cannot be read by anybody else.
    for path in (os.__file__, *[p for p in sys.path if os.path.isdir(p)]):
        os.stat(path)


def enter_namespaces() -> None:
    """Leave the machine's namespaces. Children get the new process numbers."""
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and not os.environ.get("DIFFBOOK_BOX_AS_USER"):
        _call("unshare", flags)
        return
    _call("unshare", flags | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"65534 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"65534 {gid} 1")


# ---------------------------------------------------------------------------------------------
# The file system of a box


def build_root(root: str, plan: Plan) -> None:
    """Put a small read-only system at ``root``: Python, the allowed packages, a scratch folder."""
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=4m,mode=755")
    # All that a hand-in can write to; the limit of its files is the size. First, because what is
    # mounted next may lie in /tmp.
    for folder, size in (("tmp", plan.limits.files), ("dev/shm", plan.limits.files // 4)):
        os.makedirs(f"{root}/{folder}")
        _mount("tmpfs", f"{root}/{folder}", "tmpfs", _NOSUID | _NODEV,
               f"size={size},mode=1777,nr_inodes=20000")
    for path in _python_folders():
        _bind(root, path)
    for path in SYSTEM:
        if os.path.islink(path):
            link = root + path
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if not os.path.lexists(link):
                os.symlink(os.readlink(path), link)
        elif os.path.exists(path):
            _bind(root, path)
    _bind(root, plan.packages)
    for path in _hidden_paths(plan.hide):
        if os.path.isdir(root + path):
            _mount("tmpfs", root + path, "tmpfs", _RDONLY | _NOSUID | _NODEV | _NOEXEC, "size=4k")
        elif os.path.exists(root + path):
            _mount("/dev/null", root + path, None, _BIND)
    _devices(root)
    for folder in ("proc", "old"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    os.makedirs(f"{root}/etc", exist_ok=True)
    Path(f"{root}/etc/passwd").write_text("nobody:x:65534:65534:nobody:/tmp:/bin/false\n")
    Path(f"{root}/etc/group").write_text("nogroup:x:65534:\n")


def _python_folders() -> list[str]:
    """The folders the interpreter imports from, the outermost only."""
    found = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    # site-packages outside of these (conda, Debian's dist-packages, a path set by hand)
    found |= {
        os.path.realpath(p) for p in sys.path
        if os.path.basename(p.rstrip("/")) in ("site-packages", "dist-packages")
        and os.path.isdir(p)
    }
    found -= {"/", "/usr"}
    return sorted(
        path for path in found if os.path.isdir(path) and not path.startswith("/usr/")
        and not any(path != other and path.startswith(other + "/") for other in found)
    )


def visible(path: Path) -> bool:
    """Whether a box with namespaces would show this file."""
    real = os.path.realpath(path)
    return any(real == folder or real.startswith(folder + "/")
               for folder in (*_python_folders(), *SYSTEM))


def _bind(root: str, path: str) -> None:
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    _mount(path, target, None, _BIND | _REC)
    # The flags a mount has already may not be taken away in a user namespace.
    have = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
    _mount(None, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | have)


def _hidden_paths(names: tuple[str, ...]) -> list[str]:
    folders = {os.path.realpath(p) for p in sys.path if os.path.isdir(p)}
    found = []
    for folder in folders:
        for name in names:
            path = os.path.join(folder, *name.split("."))
            found += [p for p in (path, f"{path}.py") if os.path.exists(p)]
    return found


def _devices(root: str) -> None:
    os.makedirs(f"{root}/dev", exist_ok=True)
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)


def move_into(root: str) -> None:
    """Make ``root`` the root of this process; the old one is gone."""
    try:
        _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    except PermissionError:
        pass  # inside some containers; torch runs without /proc
    number = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root is not known for {os.uname().machine}")
    libc = _libc()
    if libc.syscall(number, _bytes(root), _bytes(f"{root}/old")) != 0:
        raise OSError(ctypes.get_errno(), "pivot_root failed")
    os.chdir("/")
    _call("umount2", b"/old", _DETACH)
    os.rmdir("/old")
    _mount(None, "/", None, _REMOUNT | _RDONLY | _NOSUID | _NODEV)


# ---------------------------------------------------------------------------------------------
# Rights and limits


def drop_rights(plan: Plan) -> None:
    """Another user where possible, no capabilities, no way to get rights back, and the limits."""
    # As the same user, what the user runs anyway is counted, too.
    running = _threads_of(os.geteuid()) if plan.level == "limits" else 0
    set_limits(plan.limits, running)
    if os.geteuid() == 0 and plan.level != "limits":
        uid = FIRST_UID + plan.slot
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if plan.level == "namespaces":
            _drop_capabilities()
        _forbid_calls()


def _drop_capabilities() -> None:
    header = struct.pack("<II", 0x20080522, 0)  # version 3, this process
    _call("capset", header, struct.pack("<IIIIII", 0, 0, 0, 0, 0, 0))


def _forbid_calls() -> None:
    """A filter (seccomp) for this process and its children: calls that no notebook needs fail.

    The first reason are namespaces inside the box. Whoever makes one is root in it, could mount
    a file system of any size, which no limit of memory counts, and meets much more of the kernel.
    """
    known = _CALLS.get(os.uname().machine)
    if known is None:
        return
    architecture, clone, *rest = known
    forbidden = [*rest, *_CALLS_EVERYWHERE]
    load, jump_equal, jump_set, give = 0x20, 0x15, 0x45, 0x06  # of the kernel's packet filter
    allow, refuse = 0x7FFF0000, 0x00050000  # with refuse goes the error's number
    lines = [
        (load, 0, 0, 4), (jump_equal, 1, 0, architecture), (give, 0, 0, refuse | 1),
        (load, 0, 0, 0), (0x35, 0, 1, 0x40000000), (give, 0, 0, refuse | 1),  # (x32: >=)
        # clone3 hides its flags behind a pointer: "not known" makes libc take clone
        (jump_equal, 0, 1, 435), (give, 0, 0, refuse | 38),
    ]
    for number in forbidden:
        lines += [(jump_equal, 0, 1, number), (give, 0, 0, refuse | 1)]
    lines += [
        (jump_equal, 0, 3, clone), (load, 0, 0, 16), (jump_set, 0, 1, _NEWUSER),
        (give, 0, 0, refuse | 1), (give, 0, 0, allow),
    ]
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    data = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(lines), ctypes.addressof(data))
    _call("prctl", _PR_SET_SECCOMP, 2, header, 0, 0)


# machine: (its number, clone, unshare, setns, mount, umount2, pivot_root, chroot, ptrace, bpf,
# perf_event_open, add_key, request_key, keyctl, userfaultfd)
_CALLS = {
    "x86_64": (0xC000003E, 56, 272, 308, 165, 166, 155, 161, 101, 321, 298, 248, 249, 250, 323),
    "aarch64": (0xC00000B7, 220, 97, 268, 40, 39, 41, 51, 117, 280, 241, 217, 218, 219, 282),
}
# io_uring_setup, open_tree, move_mount, fsopen, fsconfig, fsmount, mount_setattr
_CALLS_EVERYWHERE = (425, 428, 429, 430, 431, 432, 442)


def _threads_of(uid: int) -> int:
    """Threads that the kernel counts as this user's."""
    total = 0
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                total += len(os.listdir(entry / "task"))
        except OSError:
            continue  # it ended meanwhile
    return total


def set_limits(limits: Limits, running: int = 0) -> None:
    """Limits of the kernel for this process and its children, beside ``running`` other threads."""
    import resource  # not on Windows, where this module is imported, too

    def bound(what: int, amount: int) -> None:
        hard = resource.getrlimit(what)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(what, (amount, amount))

    bound(resource.RLIMIT_CORE, 0)
    bound(resource.RLIMIT_CPU, int(limits.total) + 10)
    bound(resource.RLIMIT_FSIZE, limits.files)
    bound(resource.RLIMIT_NOFILE, 256)
    if sys.platform == "linux":
        bound(resource.RLIMIT_AS, _address_space() + limits.memory)
        bound(resource.RLIMIT_NPROC, running + limits.processes)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def die_with_parent(signal_number: int) -> None:
    if sys.platform == "linux":
        _call("prctl", _PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes whose parent ended become children of this one."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def private_folder(path: str, uid: int | None) -> None:
    """An empty folder that only the box's user may use."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, stat.S_IRWXU)
    if uid is not None:
        os.chown(path, uid, uid)
