"""A program of one's own, for tests of `--command`. It needs nothing but Python.

python own_program.py --lr X [--momentum X] [--folder DIR] [--resume FILE] [--seed N] [--act WORD] [--pause SECONDS]
                      [--until FILE]
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

options = argparse.ArgumentParser()
options.add_argument("--lr", type=float, required=True)
options.add_argument("--momentum", type=float)
options.add_argument("--folder", type=Path)
options.add_argument("--resume", type=Path)
options.add_argument("--seed", type=int, default=0)
options.add_argument("--act", default="")
options.add_argument("--pause", type=float, default=0.0)
options.add_argument("--until", type=Path, help="the fifth step waits for this file")
given = options.parse_args()

start = int(given.resume.read_text()) if given.resume else 0
print(f"from step {start} with momentum {given.momentum}")
if given.act == "child":
    # In a session of its own: it is in nobody's process group.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    (given.folder / "pids").write_text(f"{os.getpid()} {child.pid}")
if given.act == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
if given.act == "silent":
    time.sleep(1000)
for step in range(start + 1, 9):
    time.sleep(given.pause)
    while given.until and step == 5 and not given.until.exists():
        time.sleep(0.02)
    value = math.log10(given.lr) ** 2 + 1 / step + 0.001 * given.seed
    if given.act == "nan" and step == 4:
        value = math.nan
    report = {"step": step, "value": value, "twice": 2 * step, "note": "words"}
    if given.folder:
        saved = given.folder / f"step-{step}"
        saved.with_suffix(".tmp").write_text(str(step))
        saved.with_suffix(".tmp").replace(saved)
        report["checkpoint"] = str(saved)
    print(json.dumps(report))
    if given.act == "fails" and step == 4:
        print("a warning", file=sys.stderr)
        sys.exit("it broke: 1 of 2")
    if given.act == "crashes" and step == 4 and start == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
