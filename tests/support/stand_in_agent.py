"""The smallest agent there is, as one file: it holds the locks of a living one and can be ended. It knows no control plane.

``make(path)`` writes it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

_MAIN = """
import fcntl, json, os, shutil, signal, sys, time

def held(path):
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True

def keep(root):
    with open(root + "/order.json") as file:
        order = json.load(file)
    if os.stat(root + "/order.json").st_mode & 0o077:
        sys.exit("order.json is readable by others")
    if order.get("node_id") == "node-of-tomorrow":
        sys.exit("taskflow agent: Python 4.0 or newer is needed; this is 3.11.2")
    if order.get("node_id") == "node-that-fails":
        sys.exit("this one never starts")
    if held(root + "/keep.lock"):
        return
    ready, says = os.pipe()
    if os.fork() == 0:
        os.setsid()
        lock = open(root + "/keep.lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(root + "/pid", "w") as file:
            file.write(str(os.getpid()))
        os.write(says, b"1")
        while True:
            signal.pause()
    os.close(says)
    if os.read(ready, 1) != b"1":
        sys.exit("the keeper ended")

def uninstall(root):
    if held(root + "/keep.lock"):
        with open(root + "/pid") as file:
            os.kill(int(file.read()), signal.SIGKILL)
        while held(root + "/keep.lock"):
            time.sleep(0.01)
    if os.path.exists(root):
        shutil.rmtree(root)

what, root = sys.argv[1], sys.argv[sys.argv.index("--root") + 1]
{"keep": keep, "uninstall": uninstall}[what](root)
"""


def make(path: Path, note: str = "") -> Path:
    """Write it. Another ``note`` makes another file of it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", f"# {note}\n{_MAIN}")
    return path
