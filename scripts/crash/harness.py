"""A store on its mount point, and the rules of faultio.c for the process that serves it."""
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
import sys

# Whatever takes longer than this hangs.
PATIENCE_S = 120
# How long a killed process may take to end.
DYING_S = 10
RULES, RULE_LEN, PATTERN_AT = 16, 128, 48
CALLS = {
    "create": 1,
    "write": 2,
    "read": 4,
    "sync": 8,
    "rename": 16,
    "remove": 32,
    "open": 64,
    "mkdir": 128,
    "truncate": 256,
}
COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALFWAY, FAIL, FAIL_HALFWAY, SWALLOW = range(7)
MNT_FORCE, MNT_DETACH = 1, 2
FOREVER = 1 << 62


class Violation(Exception):
    """The program has broken a promise."""


class Faults:
    """The rules, as faultio.c reads them: a change has effect on the next call."""

    def __init__(self, library, control):
        self.library, self.control = library, control
        with open(control, "wb") as f:
            f.truncate(RULES * RULE_LEN)
        with open(control, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), RULES * RULE_LEN)

    def environment(self, root):
        return {"LD_PRELOAD": self.library, "FAULTIO_CONTROL": self.control, "FAULTIO_ROOT": root}

    def arm(self, slot, calls, pattern, action, error=0, first=1, end=FOREVER):
        at = slot * RULE_LEN
        mask = sum(CALLS[call] for call in calls.split("+"))
        struct.pack_into("<I", self.map, at, 0)
        struct.pack_into("<IIiQQQQ", self.map, at + 4, mask, action, error, 0, first, end, 0)
        self.map[at + PATTERN_AT : at + RULE_LEN] = pattern.encode().ljust(RULE_LEN - PATTERN_AT, b"\0")
        struct.pack_into("<I", self.map, at, 1)

    def disarm(self):
        for slot in range(RULES):
            struct.pack_into("<I", self.map, slot * RULE_LEN, 0)

    def seen(self, slot=0):
        return struct.unpack_from("<Q", self.map, slot * RULE_LEN + 16)[0]

    def fired(self, slot=0):
        return struct.unpack_from("<Q", self.map, slot * RULE_LEN + 40)[0]


def mounted(point):
    with open("/proc/self/mountinfo") as f:
        return f" {point} " in f.read()


class Store:
    def __init__(self, program, path, point, faults=None):
        self.program, self.path, self.point, self.faults = program, path, point, faults
        self.process = None
        self.stuck = 0
        self.helper = subprocess.Popen(["sh"], stdin=subprocess.PIPE)
        os.makedirs(point, exist_ok=True)

    def run(self, *arguments, watched=False):
        """Runs the program; with `watched`, under the rules."""
        environment = dict(os.environ)
        if watched and self.faults:
            environment |= self.faults.environment(self.path)
        try:
            return subprocess.run(
                [self.program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, env=environment
            )
        except subprocess.TimeoutExpired as late:
            raise Violation(f"{arguments} has not ended after {PATIENCE_S} s") from late

    def must(self, *arguments):
        done = self.run(*arguments)
        if done.returncode:
            raise Violation(f"{' '.join(arguments)}: exit {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.stdout

    def facts(self, *arguments):
        return json.loads(self.must("--json", *arguments))

    def make(self, *options):
        shutil.rmtree(self.path, ignore_errors=True)
        self.must("init", *options, self.path)

    def try_mount(self, *options):
        done = self.run("mount", *options, self.path, self.point, watched=True)
        if done.returncode == 0:
            with open(f"{self.path}/lock") as f:
                words = f.read().split()
            self.close()
            self.process = os.pidfd_open(int(words[words.index("pid") + 1]))
        return done

    def mount(self, *options):
        done = self.try_mount(*options)
        if done.returncode:
            raise Violation(f"mount: exit {done.returncode}: {done.stderr}")

    def close(self):
        if self.process is not None:
            os.close(self.process)
            self.process = None

    def ended(self, wait_s=0.0):
        """Whether the process that serves the mount has ended."""
        poll = select.poll()
        poll.register(self.process, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def kill(self):
        signal.pidfd_send_signal(self.process, signal.SIGKILL)
        self.wait()

    def wait(self):
        """Waits for the end of a killed process, which the next command helps with where the kernel does not let it end."""
        if self.ended(DYING_S):
            return
        self.stuck += 1
        # By a process that has none of our files open: closing one on that mount waits as well.
        self.helper.stdin.write(f"{self.program} -q stats {self.point} >/dev/null 2>&1 </dev/null &\n".encode())
        self.helper.stdin.flush()
        if not self.ended(DYING_S):
            self.abort()
            raise Violation("the killed process does not end, and its store stays locked, until somebody aborts its mount")

    def abort(self):
        """Ends the mount whatever its process is doing, so that nothing waits for it any more."""
        # Not by a command: its process would begin with closing our files on that mount, which waits as well.
        if os.geteuid() == 0:
            ctypes.CDLL(None).umount2(self.point.encode(), MNT_FORCE | MNT_DETACH)
        if not self.ended(PATIENCE_S):
            raise Violation("the process does not end even without its mount")

    def detach(self):
        """Takes a dead mount away, as whoever finds one does."""
        while mounted(self.point):
            if os.geteuid() == 0:
                ctypes.CDLL(None).umount2(self.point.encode(), MNT_DETACH)
            else:
                subprocess.run(["fusermount3", "-uz", self.point], check=True, capture_output=True)

    def drop_index(self):
        shutil.rmtree(f"{self.path}/index", ignore_errors=True)

    def log(self):
        try:
            with open(f"{self.path}/mmhfs.log", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def check(self):
        """`mmhfs check` of the store, which must not be mounted."""
        self.must("check", self.path)


def report(title, header, rows, violations):
    """Prints a table and what went wrong, and gives the exit status."""
    widths = [max(len(str(row[at])) for row in (header, *rows)) for at in range(len(header))]
    for row in (header, *rows) if rows else ():
        cells = [str(cell).ljust(w) if at == 0 else str(cell).rjust(w) for at, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    print(title)
    for line in violations[:20]:
        print(f"VIOLATION {line}")
    if len(violations) > 20:
        print(f"... and {len(violations) - 20} more")
    sys.stdout.flush()
    return bool(violations)
