"""The cases of scripts/faults: see there."""
import errno
import os
import random
import sys
import threading
import time

from harness import FAIL, FAIL_HALFWAY, FOREVER, PATIENCE_S, Faults, Store, Violation, report
from model import Commands, World, live_problems, snapshot_problems, snapshots_of, survivors, verify_problems

EIO, ENOSPC = errno.EIO, errno.ENOSPC
# What fails, in which calls on which files, and meanwhile: "work" (writers and commands), "clean", "close", "mount", "read".
FILES = (
    ("LOG pack: write", FAIL, "write", "packs/*.log", "work", (EIO, ENOSPC)),
    ("LOG pack: half a write", FAIL_HALFWAY, "write", "packs/*.log", "work", (EIO, ENOSPC)),
    ("LOG pack: fdatasync", FAIL, "sync", "packs/*.log", "work", (EIO, ENOSPC)),
    ("DATA pack: half a write", FAIL_HALFWAY, "write", "packs/*.dat", "work", (EIO, ENOSPC)),
    ("DATA pack: fdatasync", FAIL, "sync", "packs/*.dat", "work", (EIO, ENOSPC)),
    ("pack: creation", FAIL, "create", "packs/*", "clean", (EIO, ENOSPC)),
    ("pack: removal", FAIL, "remove", "packs/*", "clean", (EIO,)),
    ("packs directory: fsync", FAIL, "sync", "packs", "clean", (EIO,)),
    ("superblock: creation", FAIL, "create", "super.*", "clean", (EIO, ENOSPC)),
    ("superblock: write, sync", FAIL, "write+sync", "super.*", "clean", (EIO, ENOSPC)),
    ("superblock: rename", FAIL, "rename", "super.*", "clean", (EIO, ENOSPC)),
    ("store directory: fsync", FAIL, "sync", ".", "clean", (EIO,)),
    ("index: creation", FAIL, "create", "index/*", "clean", (EIO, ENOSPC)),
    ("index: write", FAIL_HALFWAY, "write", "index/*", "clean", (EIO, ENOSPC)),
    ("index: sync", FAIL, "sync", "index/*", "clean", (EIO,)),
    ("index: removal", FAIL, "remove", "index/*", "clean", (EIO,)),
    ("checkpoint: creation", FAIL, "create", "checkpoints/*", "clean", (EIO, ENOSPC)),
    ("checkpoint: write", FAIL_HALFWAY, "write", "checkpoints/*", "clean", (EIO, ENOSPC)),
    ("checkpoint: sync", FAIL, "sync", "checkpoints*", "clean", (EIO,)),
    ("checkpoint: rename, removal", FAIL, "rename+remove", "checkpoints/*", "clean", (EIO,)),
    ("any change", FAIL, "create+write+sync+rename+remove+mkdir", "[!m]*", "clean", (EIO, ENOSPC)),
    ("close: packs", FAIL, "write+sync", "packs/*", "close", (EIO, ENOSPC)),
    ("close: index", FAIL, "create+write+sync+rename", "index/*", "close", (EIO, ENOSPC)),
    ("opening: any change", FAIL, "create+write+sync+rename+remove+mkdir", "[!m]*", "mount", (EIO, ENOSPC)),
    ("opening: read", FAIL, "read", "[!m]*", "mount", (EIO,)),
    ("read of packs", FAIL, "read", "packs/*", "read", (EIO,)),
    ("read of the index", FAIL, "read", "index/*", "read", (EIO,)),
)
# How long it lasts: the first call that fails, and how many do.
SPANS = {"once": 1, "a while": 6, "for good": FOREVER}
WRITERS = 3
STEPS = 18
STORE_CASES = 25


class Run:
    def __init__(self, program, library, work, seed):
        self.chance = random.Random(seed)
        self.seed = seed
        self.faults = Faults(library, f"{work}/control")
        self.store = Store(program, f"{work}/store", f"{work}/mnt", self.faults)
        self.world = None
        self.cases = 0
        self.confirmations = self.retried = 0

    def new_world(self):
        self.faults.disarm()
        if self.world:
            self.confirmations += self.world.confirmations
        self.store.make("--pack-size", "4M")
        self.store.mount()
        self.world = World(self.store, f"{self.seed}:{self.cases}", WRITERS, (EIO, ENOSPC))
        self.world.prepare()

    def arm(self, case, error, span):
        _, action, calls, files, phase, _ = case
        first = 1 if phase == "close" else self.chance.randint(1, {"work": 12, "clean": 3}.get(phase, 8))
        self.faults.arm(0, calls, files, action, error, first, first + SPANS[span])

    def work(self, todo):
        commands, began = Commands(self.world, todo), time.monotonic()
        threads = [*self.world.start(STEPS), commands]
        commands.start()
        self.join(threads, began)
        if commands.error:
            raise commands.error

    def join(self, threads, began):
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.05)
            if time.monotonic() - began > PATIENCE_S:
                self.store.abort()
                raise Violation("operations hang")
        if self.store.ended():
            raise Violation(f"the process has died: {self.store.log()[-1000:]}")
        if self.world.strange:
            raise Violation(f"errors of another kind: {self.world.strange[:3]}")

    def one(self, case, error, span):
        """Gives what became of the program after the fault, or raises what it did wrong."""
        phase = case[4]
        if phase == "read":
            return self.read(case, error, span)
        if phase in ("work", "clean"):
            self.arm(case, error, span)
            self.work(("snapshot", "delete", "clean", "sync") if phase == "clean" else ("sync", "snapshot"))
            fate = self.look_after()
        else:
            self.work(("sync",))
            fate = "works"
        views = self.world.view()
        if phase == "close":
            self.arm(case, error, span)
            done = self.store.run("umount", self.store.point)
            fate = "closed" if done.returncode == 0 else f"exit {done.returncode}"
            if not self.store.ended(PATIENCE_S):
                raise Violation("unmounting has not ended the process")
            if done.returncode and not done.stderr.strip():
                raise Violation("unmounting failed without a word")
            self.store.detach()
        else:
            self.store.kill()
        self.store.close()
        if phase == "mount":
            if self.chance.random() < 0.5:
                self.store.drop_index()
            self.arm(case, error, span)
            done = self.store.try_mount()
            fate = "mounted" if done.returncode == 0 else f"exit {done.returncode}"
            if done.returncode and not done.stderr.strip():
                raise Violation("mounting failed without a word")
            fired = self.faults.fired()
            self.faults.disarm()
            if done.returncode == 0:
                # What is served may lack nothing, whether or not it was written down.
                self.survive(views, adopt=False)
                self.store.kill()
                self.store.close()
            self.reopen(views)
            return fate, fired
        fired = self.faults.fired()
        self.faults.disarm()
        if self.chance.random() < 0.5:
            self.store.drop_index()
        self.reopen(views)
        return fate, fired

    def look_after(self):
        """With the fault over: the tree is what the successful calls made it, and the store works or says why not."""
        self.faults.disarm()
        halted = self.store.facts("stats", self.store.point).get("halted")
        problems = live_problems(self.world)
        if problems:
            raise Violation("as served after the fault: " + "; ".join(problems))
        failures = self.world.failures
        self.work(("sync",))
        if halted and self.world.failures == failures:
            raise Violation(f"the store says that it has halted ({halted}) and goes on")
        # A flush of the index that failed in the background shows at the next commit, which then halts the store.
        halted = halted or self.store.facts("stats", self.store.point).get("halted")
        if halted:
            if "ERROR" not in self.store.log():
                raise Violation("the store has halted and its log does not say so")
            return "read-only"
        if self.world.failures != failures:
            raise Violation(f"the fault is over, the store has not halted, and still fails: {self.store.log()[-500:]}")
        return "works"

    def survive(self, views, adopt):
        problems = survivors(self.world, views, self.store.point, adopt)
        listed = snapshots_of(self.store, self.store.point)
        problems += snapshot_problems(listed, *self.world.sure_snapshots())
        if adopt:
            self.world.adopt_snapshots(listed)
        if problems:
            raise Violation("; ".join(problems))

    def reopen(self, views):
        self.store.mount()
        self.survive(views, adopt=True)

    def read(self, case, error, span):
        """A mount that has read nothing yet, whose reads fail: right bytes or an error, and right bytes afterwards."""
        self.work(("sync", "snapshot"))
        self.store.must("umount", self.store.point)
        self.store.mount()
        self.arm(case, error, span)
        errors = []
        thread = threading.Thread(target=self.read_all, args=(errors,), daemon=True)
        began = time.monotonic()
        thread.start()
        self.join([thread], began)
        fired = self.faults.fired()
        self.faults.disarm()
        wrong = [each for each in errors if not isinstance(each, OSError) or each.errno != EIO]
        if wrong:
            raise Violation(f"a read under the fault: {wrong[:3]}")
        halted = self.store.facts("stats", self.store.point).get("halted")
        problems = live_problems(self.world)
        if problems:
            raise Violation("after the fault: " + "; ".join(problems))
        views = self.world.view()
        self.store.kill()
        self.store.close()
        self.reopen(views)
        problems = verify_problems(self.store, self.store.point, list(self.world.snapshots))
        if problems:
            raise Violation("; ".join(problems))
        return "read-only" if halted else f"{'EIO' if errors else 'no error'}, works", fired

    def read_all(self, errors):
        for writer in self.world.writers:
            for path, ident in sorted(writer.names.items()):
                try:
                    with open(writer.folder(path), "rb") as f:
                        got = f.read()
                except OSError as error:
                    errors.append(error)
                    continue
                file = writer.files[ident]
                problem = file.problem(file.live(), got)
                if problem:
                    errors.append(f"{path} {problem}")


def main():
    program, library, work, rounds, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    wanted = os.environ.get("FAULTS", "")
    cases = [
        (case, error, span) for case in FILES if wanted in case[0] for error in case[5] for span in SPANS
    ]
    run = Run(program, library, work, seed)
    if not cases:
        sys.exit(f"no case has {wanted} in its name")
    began = time.monotonic()
    order = []
    while len(order) < rounds:
        order += run.chance.sample(cases, len(cases))
    rows, violations = {}, []
    run.new_world()
    for number, (case, error, span) in enumerate(order[:rounds]):
        run.cases = number
        key = (case[0], errno.errorcode[error], span)
        row = rows.setdefault(key, [0, 0, {}, 0])
        row[0] += 1
        try:
            if number and number % STORE_CASES == 0:
                run.store.must("umount", run.store.point)
                run.store.check()
                run.new_world()
            fate, fired = run.one(case, error, span)
            row[1] += fired
            row[2][fate] = row[2].get(fate, 0) + 1
        except Violation as violation:
            row[3] += 1
            violations.append(f"seed {seed}, case {number}, {key}: {violation}")
            if len(violations) >= 10:
                break
            run.faults.disarm()
            if run.store.process is not None and not run.store.ended():
                run.store.kill()
            run.store.close()
            run.store.detach()
            run.new_world()
    try:
        run.store.must("umount", run.store.point)
        run.store.check()
    except Violation as violation:
        violations.append(f"seed {seed}, at the end: {violation}")
    fired = sum(row[1] for row in rows.values())
    if not fired:
        violations.append("nothing failed: the program does not call the C library, or no case was met")
    table = [
        (name, error, span, row[0], row[1], ", ".join(f"{fate} {n}" for fate, n in sorted(row[2].items())), row[3])
        for (name, error, span), row in sorted(rows.items())
    ]
    title = (
        f"faults: seed {seed}: {sum(row[0] for row in rows.values())} cases, {fired} calls failed; "
        f"{run.confirmations + run.world.confirmations} confirmations; {len(violations)} violations; "
        f"{time.monotonic() - began:.0f} s"
    )
    header = ("what failed", "error", "how long", "cases", "failed", "afterwards", "violations")
    sys.exit(report(title, header, table, violations))


main()
