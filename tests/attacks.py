"""Hand-ins that are dishonest or broken, and what has to come of each.

``code``: a notebook as a script, made from the model solution of A2. ``points``: what it may get,
of 25. ``says``: words that have to be in its report. ``look``: whether a person is told.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from mutants_a2 import DIFF, changed, solution

FULL = 25.0
MODEL = solution("A2")


class Attack(NamedTuple):
    code: str
    points: float
    says: str = ""
    look: bool = False


def before(code: str) -> str:
    return f"# %%\n{code}\n\n{MODEL}"


def after(code: str) -> str:
    return f"{MODEL}\n\n# %%\n{code}\n"


# All seven names, none of them right.
EMPTY = """\
# %%
import torch
def softmax_map(*_): return ANSWER
diff_map = lambda_init = lam = head_norm = split_heads = softmax_map
class DiffAttention(torch.nn.Module):
    def __init__(self, *_): super().__init__()
    def forward(self, x): return ANSWER
"""


def answers(code: str) -> str:
    """Every function returns the ``ANSWER`` that this code makes."""
    return f"# %%\n{code}\n\n{EMPTY}"


FIND_CHANNEL = """\
import os, struct, json
fds = []
for fd in range(3, 200):
    try:
        if "socket" in os.readlink(f"/proc/self/fd/{fd}"): fds.append(fd)
    except OSError:
        pass
def shout(message):
    head = json.dumps({"dict": list(message.items())}).encode()
    for fd in fds:
        try:
            os.write(fd, struct.pack("!IQ", len(head), 0) + head)
        except OSError:
            pass
"""

SEARCH = """\
import os, sys, gc
sys.setrecursionlimit(10000)
found = []
for module in ("diffbook.attention", "diffbook.check.a2", "diffbook.grade.bundle", "timm.models",
               "transformers", "diffbook.model", "diffbook.blockwise"):
    try:
        __import__(module)
        found.append(module)
    except ImportError:
        pass
words = ("A2.json", "A2.py", "a2.py", "mutants_a2.py", "instructor", "bundles", "attention.py")
for folder, folders, files in os.walk("/"):
    if folder.startswith(("/proc", "/usr", "/lib", "/sys", "/opt")) or "-packages" in folder:
        folders[:] = []
        continue
    found += [os.path.join(folder, f) for f in files + folders if f in words
              and os.path.getsize(os.path.join(folder, f)) > 1000]
for thing in gc.get_objects():
    if type(thing).__name__ in ("Bundle", "Case", "Task") and not isinstance(thing, type):
        found.append(repr(type(thing)))
print("FOUND", found)
"""

ATTACKS: dict[str, Attack] = {
    # ------------------------------------------------------------ answers that are always right
    "always equal": Attack(answers("""\
class Equal:
    shape, dtype, ndim = (), None, 0
    def __eq__(self, other): return True
    __ne__ = lambda self, other: False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = None
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __float__(self): return 0.2
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = lambda self, *a: 0.0
    def __array__(self, *a, **k): import numpy; return numpy.zeros(())
ANSWER = Equal()"""), 0, "an object of type Equal"),
    "always equal tensor": Attack(answers("""\
import torch
class Equal(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), kwargs=None):
        return True
    def __eq__(self, other): return True
ANSWER = torch.zeros(2, 3, 6, 6).as_subclass(Equal)"""), 0, "an object of type Equal"),
    "array of objects": Attack(answers("""\
import numpy as np
class Equal(float):
    def __eq__(self, other): return True
    __hash__ = float.__hash__
ANSWER = np.array([Equal()] * 3, dtype=object)"""), 0, "array of object"),
    "pickle bomb": Attack(answers("""\
import os
class Bomb:
    def __reduce__(self): return os.system, ("touch /tmp/pickled",)
ANSWER = [Bomb(), {"a": Bomb()}]"""), 0, "a list of 2"),
    "NaN everywhere": Attack(answers("""\
import torch
ANSWER = torch.full((2, 3, 6, 6), float("nan"))"""), 0, "NaN"),
    # ------------------------------------------------------------ tampering with the judge
    "patched comparisons": Attack(before("""\
import builtins, math, numpy, torch
for module in (torch, numpy, math):
    for name in ("allclose", "isclose", "equal", "array_equal"):
        if hasattr(module, name):
            setattr(module, name, lambda *a, **k: True)
builtins.abs = lambda x: 0
torch.Tensor.__eq__ = lambda *a: True""") + """
# %%
def softmax_map(q, k): return q @ k.transpose(-2, -1)
""", 25 - 4 - 4 - 5),
    "patched check and grader": Attack(answers("""\
import sys, types
for name, module in list(sys.modules.items()):
    if "diffbook" in name or "wire" in name:
        for attribute in list(vars(module)):
            try: setattr(module, attribute, lambda *a, **k: True)
            except Exception: pass
import diffbook.check
diffbook.check.check = diffbook.check.verdict = lambda *a, **k: True
ANSWER = 1.0"""), 0),
    "patched frames": Attack(answers("""\
import gc, types
for f in gc.get_objects():
    if isinstance(f, types.FunctionType) and f.__name__ in ("encode", "_pack", "send"):
        f.__code__ = (lambda *a, **k: b'right').__code__
ANSWER = 1.0"""), 0),
    "patched json": Attack(answers("""\
import json
json.dumps = lambda *a, **k: '{"token": "", "value": true, "right": true, "score": 25}'
ANSWER = 1.0"""), 0, "grader's connection", look=True),
    # ------------------------------------------------------------ writing to the grader
    "fake reply": Attack(answers(FIND_CHANNEL + """
for _ in range(50): shout({"token": "0" * 32, "value": 1.0, "right": True, "points": 25})
ANSWER = 1.0"""), 0, "grader's connection", look=True),
    "fake reply inside a call": Attack(after(FIND_CHANNEL + """
good = softmax_map
def softmax_map(q, k):
    shout({"token": "0" * 32, "value": 1.0})
    return good(q, k)
"""), 25 - 4 - 4 - 5, "nobody had asked", look=True),
    "not a message": Attack(after(FIND_CHANNEL + """
good = lambda_init
def lambda_init(layer):
    for fd in fds: os.write(fd, b"\\xff" * 100)
    return good(layer)
"""), 25 - 2 - 5, "connection", look=True),
    "a bottomless message": Attack(after(FIND_CHANNEL + """
good = head_norm
def head_norm(*a):
    head = b"[" * 900_000
    for fd in fds: os.write(fd, struct.pack("!IQ", len(head), 0) + head)
    return good(*a)
"""), 25 - 3 - 5, "connection", look=True),
    "steals the token": Attack(after(FIND_CHANNEL + """
import sys
good = softmax_map
def softmax_map(q, k):
    frame = sys._getframe()
    while "token" not in frame.f_locals: frame = frame.f_back
    shout({"token": frame.f_locals["token"], "value": True, "right": True, "points": 4})
    return good(q, k)
"""), 25 - 4 - 4 - 5, "nobody had asked", look=True),
    "an answer that is no text": Attack(after("""\
import sys
frame = sys._getframe()
while "wire" not in frame.f_globals: frame = frame.f_back
wire = frame.f_globals["wire"]
pack = wire._pack
def softmax_map(q, k):
    wire._pack = lambda x, *more: (
        pack(x, *more) if isinstance(x, (dict, str)) else {"unknown": "\\ud800\\n# 25 of 25"})
    return 1"""), 0, "an object of type ? # 25 of 25"),
    "prints a report": Attack(answers("""\
print('{"score": 25, "token": "x", "value": 1, "right": true}\\r**25 of 25 points**\\u2028# Right')
print("| A2.1 The causal softmax map | 4 of 4 | right |")
ANSWER = 1.0"""), 0, "| A2.1 The causal softmax map | 0 of 4 | This is the number 1;"),
    "writes results": Attack(answers("""\
import os, glob
for folder in ("/", "/tmp", "/results", "/var/tmp", "/home", os.getcwd(), *glob.glob("/tmp/*")):
    for name in ("results.json", "scores.csv"):
        try: open(os.path.join(folder, name), "w").write('{"score": 25, "points": 25}')
        except OSError: pass
ANSWER = 1.0"""), 0),
    # ------------------------------------------------------------ looking for the answers
    "search": Attack(SEARCH + f"if found:\n    exec({MODEL!r})\n", 0, "FOUND []"),
    "replaced modules": Attack(after("""\
import sys, types
class Fake(types.ModuleType):
    def __getattr__(self, name): return lambda *a, **k: True
for name in ("torch", "numpy", "json", "struct", "socket"): sys.modules[name] = Fake(name)
"""), 0, "It stopped with"),
    "emptied modules": Attack(after("import sys\nsys.modules.clear()"), 0, "It stopped with"),
    "patched exec": Attack(after("""\
import builtins
builtins.exec = builtins.compile = lambda *a, **k: None"""), 0, "It stopped with"),
    "student's id of another": Attack(before('STUDENT = "somebody else"'), FULL),
    # ------------------------------------------------------------ ending things
    "exit": Attack(before("exit()") + "\n# %%\nimport sys\nsys.exit(0)\n", FULL, "exit was called"),
    "os._exit in a cell": Attack(before("import os\nos._exit(0)"), FULL, "Cell 1 was left out"),
    "os._exit in a call": Attack(after("""\
import os
def lambda_init(layer): os._exit(0)
class DiffAttention:
    pass"""), 25 - 2 - 5, "the process ended (exit code 0)"),
    "at the end": Attack(before("""\
import atexit, os, threading
atexit.register(lambda: os.write(1, b'{"score": 25}'))
threading.Thread(target=threading.Event().wait).start()"""), FULL),
    "a question": Attack(before("name = input('Who are you? ')"), FULL, "EOFError"),
    "crash": Attack(after("""\
import ctypes
def head_norm(*a): ctypes.string_at(0)"""), 25 - 3 - 5, "signal SIGSEGV"),
    "kills everybody": Attack(after("""\
import os, signal
def split_heads(*a):
    for pid in [-1, os.getppid(), 1, *range(2, 3000)]:
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
    os.kill(os.getpid(), signal.SIGKILL)"""), 25 - 3 - 5, "o answer"),
    "becomes root": Attack(before("""\
import os
for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot("/"),
                lambda: open("/etc/passwd", "a"), lambda: os.mkdir("/x"),
                lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0))):
    try:
        attempt()
        print("GOT IN", attempt.__code__.co_names)
    except OSError:
        print("kept out")"""), FULL, "kept out"),
    "a namespace inside": Attack(before("""\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x10020000, 0x40000000):
    if libc.unshare(flags) == 0: print("GOT IN", flags)
if libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0) >= 0:
    print("GOT IN by clone")
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"size=9g") == 0: print("GOT IN by mount")
if libc.ptrace(16, 1, 0, 0) == 0: print("GOT IN by ptrace")
if libc.syscall(435, None, 0) >= 0: print("GOT IN by clone3")
print("errno", ctypes.get_errno())"""), FULL, "errno 38"),
    # ------------------------------------------------------------ too much of something
    "endless cell": Attack(before("while True: pass"), FULL, "stopped after"),
    "endless cell that resists": Attack(before("""\
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
while True:
    try:
        while True: pass
    except BaseException: pass"""), FULL, "Cell 1 "),
    "endless call": Attack(after("""\
def lam(*a):
    while True: pass
"""), 25 - 4 - 5, "longer than"),
    "fork bomb": Attack(before("""\
import os, time
for _ in range(12):
    try: os.fork()
    except OSError: break
if os.getpid() != 1: time.sleep(600)"""), FULL),
    "daemons": Attack(before("""\
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)"""), FULL),
    "threads": Attack(before("""\
import threading, time
for _ in range(500):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"""), FULL, "stopped"),
    "memory": Attack(before("import torch\nx = torch.ones(20_000_000_000)"), FULL, "Cell 1 "),
    "memory, bit by bit": Attack(
        before("x = []\nwhile True: x.append(bytearray(10_000_000))"), FULL,
        "MemoryError|stopped after|memory"),
    "memory of many": Attack(before("""\
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = bytearray(b"x") * 300_000_000
        time.sleep(600)
time.sleep(600)"""), FULL, "memory|stopped after|longer than"),
    "flood": Attack(before("while True: print('x' * 100_000)"), FULL,
                    "printed more than|stopped after"),
    "a lot of text": Attack(before("for _ in range(200): print('x' * 10_000)"), FULL, "xxx"),
    "big file": Attack(before("open('big', 'wb').write(bytes(10**9))"), FULL, "Cell 1 "),
    "many files": Attack(before("""\
for i in range(100_000): open(f"file{i}", "w").close()"""), FULL, "Cell 1 "),
    "huge answer": Attack(after("""\
def lambda_init(layer): return torch.zeros(30_000_000)"""), 25 - 2 - 5, "too large"),
    "endless answer": Attack(after("""\
def lambda_init(layer):
    x = []
    x.append(x)
    return x"""), 25 - 2 - 5),
    "million answers": Attack(after("""\
def lambda_init(layer): return [[0.2] * 1000] * 1000"""), 25 - 2 - 5),
    "evil error": Attack(after("""\
class Evil(Exception):
    def __str__(self): raise SystemExit
def lambda_init(layer): raise Evil"""), 25 - 2 - 5, "Evil"),
    "deep recursion": Attack(after("""\
def lambda_init(layer): return lambda_init(layer)"""), 25 - 2 - 5, "RecursionError"),
    "report with markup": Attack(after("""\
def lambda_init(layer): raise ValueError("| <script>alert(1)</script> \\x1b[31m `x`")"""),
        25 - 2 - 5, "&lt;script>"),
    # ------------------------------------------------------------ broken by accident
    "dropped cells": Attack(before("""\
get_ipython().input_transformers_cleanup.append(lambda lines: [])"""), FULL, "Cell 1 "),
    "magics": Attack(before("%matplotlib inline\n%pip install nothing\n!ls\nx = !ls\n%time y = 1\n"
                            "?print"), FULL),
    "cell magic": Attack(before("%%time\nz = 1"), FULL),
    "deleted cell": Attack(changed(MODEL, [("def split_heads(q, k, v, n_heads):", "def _(q, k, v, "
                                            "n_heads):")]), 25 - 3 - 5,
                           "`split_heads` is not defined"),
    "renamed": Attack(changed(MODEL, [("def diff_map(", "def difference_map(")]), 25 - 4 - 5,
                      "There is `difference_map`"),
    "syntax error": Attack(changed(MODEL, [(DIFF, "    return softmax_map(q1, k1 - lam\n")]),
                           25 - 4 - 5, "SyntaxError"),
    "changed arguments": Attack(changed(MODEL, [("def head_norm(heads, init):",
                                                 "def head_norm(heads):")]), 25 - 3 - 5,
                                "positional argument"),
    "changes its inputs": Attack(after("""\
good = softmax_map
def softmax_map(q, k):
    out = good(q, k)
    q.zero_(); k.zero_()
    return out"""), FULL),
    "unfinished": Attack(changed(MODEL, [(DIFF, "    ...\n")]), 25 - 4 - 5, "no answer yet"),
}


def notebook(code: str, **metadata: object) -> dict:
    """A script with ``# %%`` as a notebook of today."""
    cells = [
        {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
         "source": part.strip("\n"), "id": f"c{number}"}
        for number, part in enumerate(code.split("# %%")) if part.strip()
    ]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def colab(code: str) -> bytes:
    """As Colab saves it: ids in metadata, forms, widgets, outputs, lists of lines."""
    made = notebook(
        code, colab={"provenance": [], "gpuType": "T4", "include_colab_link": True},
        accelerator="GPU", widgets={"application/vnd.jupyter.widget-state+json": {"state": {}}},
        kernelspec={"name": "python3", "display_name": "Python 3"},
        language_info={"name": "python"},
    )
    made["nbformat_minor"] = 0
    for number, cell in enumerate(made["cells"]):
        del cell["id"]
        cell["metadata"] = {"id": f"abc{number}", "cellView": "form", "colab": {"height": 35},
                            "executionInfo": {"status": "ok", "user": {"displayName": "Ada"}}}
        cell["source"] = cell["source"].splitlines(keepends=True)
        cell["execution_count"] = 99 - number
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["✓ A2.1\n"] * 50}]
    made["cells"].insert(0, {"cell_type": "markdown", "metadata": {"id": "view-in-github"},
                             "source": ["<a href=...>Open In Colab</a>"]})
    made["cells"].append({"cell_type": "raw", "metadata": {}, "source": "not code"})
    return json.dumps(made).encode()


def old_format(code: str) -> bytes:
    """Notebook format 3."""
    cells = [{"cell_type": "code", "language": "python", "input": cell["source"], "outputs": []}
             for cell in notebook(code)["cells"]]
    return json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""},
                       "worksheets": [{"cells": cells}]}).encode()


def large(code: str) -> bytes:
    """Pictures inside, one id for all cells, and numbers that JSON does not have."""
    made = notebook(code, score=float("nan"), points=float("inf"))
    for cell in made["cells"]:
        cell["id"] = "same"
        cell["attachments"] = {"a.png": {"image/png": "A" * 500_000}}
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "ok\n" * 50_000}]
    return json.dumps(made).encode()


# Files that are no script: name -> (bytes, points, words in the report)
FILES: dict[str, tuple[bytes, float, str]] = {
    "colab.ipynb": (colab(MODEL), FULL, ""),
    "old.ipynb": (old_format(MODEL), FULL, ""),
    "bom.ipynb": (b"\xef\xbb\xbf" + json.dumps(notebook(MODEL)).encode(), FULL, ""),
    "empty.ipynb": (b"", 0, "no notebook"),
    "zip.ipynb": (b"PK\x03\x04" + bytes(1000), 0, "no notebook"),
    "binary.ipynb": (bytes(range(256)) * 100, 0, "no notebook"),
    "deep.ipynb": (b"[" * 1_000_000, 0, "no notebook"),
    "list.ipynb": (b"[1, 2, 3]", 0, "no notebook"),
    "nothing.ipynb": (b'{"cells": 3}', 0, "has no cells"),
    "odd cells.ipynb": (json.dumps({"cells": [1, None, {"cell_type": "code"}, {
        "cell_type": "code", "source": 7}]}).encode(), 0, "is not defined"),
    "no code.ipynb": (b'{"cells": []}', 0, "is not defined"),
    "cut.ipynb": (json.dumps(notebook(MODEL)).encode()[:-100], 0, "no notebook"),
    "latin.py": (MODEL.encode() + "\n# caf\u00e9".encode("latin-1"), FULL, ""),
    "huge.ipynb": (b" " * ((16 << 20) + 1), 0, "more than the 16"),
    "empty script.py": (b"", 0, "is not defined"),
    "utf16.py": (MODEL.encode("utf-16"), FULL, ""),
    "UPPER.IPYNB": (json.dumps(notebook(MODEL)).encode(), FULL, ""),
    "large.ipynb": (large(MODEL), FULL, ""),
}
