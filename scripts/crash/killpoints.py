"""The rounds of scripts/killpoints: see there."""
import fnmatch
import os
import random
import signal
import sys
import threading
import time

from harness import DYING_S, KILL_AFTER, KILL_BEFORE, KILL_HALFWAY, PATIENCE_S, Faults, Store, Violation, report
from model import Commands, World, snapshot_problems, snapshots_of, survivors, verify_problems

# name: when, calls, files, and what has to happen for it: "work" (the writers do), "clean", "close" (unmounting),
# "mount" (opening after a kill), "rebuild" (the same without an index); "collect" is a kill at a random moment while
# `mmhfs sync` waits for the kernel to hand over what a program goes on writing.
POINTS = {
    "LOG pack: write": (KILL_BEFORE, "write", "packs/*.log", "work"),
    "LOG pack: half a write": (KILL_HALFWAY, "write", "packs/*.log", "work"),
    "LOG pack: after a write": (KILL_AFTER, "write", "packs/*.log", "work"),
    "LOG pack: fdatasync": (KILL_BEFORE, "sync", "packs/*.log", "work"),
    "LOG pack: after fdatasync": (KILL_AFTER, "sync", "packs/*.log", "work"),
    "DATA pack: write": (KILL_BEFORE, "write", "packs/*.dat", "work"),
    "DATA pack: half a write": (KILL_HALFWAY, "write", "packs/*.dat", "work"),
    "DATA pack: fdatasync": (KILL_BEFORE, "sync", "packs/*.dat", "work"),
    "DATA pack: after fdatasync": (KILL_AFTER, "sync", "packs/*.dat", "work"),
    "pack: creation": (KILL_BEFORE, "create", "packs/*", "clean"),
    "pack: after creation": (KILL_AFTER, "create", "packs/*", "clean"),
    "packs directory: fsync": (KILL_BEFORE, "sync", "packs", "clean"),
    "packs directory: after fsync": (KILL_AFTER, "sync", "packs", "clean"),
    "superblock: write": (KILL_HALFWAY, "write", "super.*", "clean"),
    "superblock: fdatasync": (KILL_BEFORE, "sync", "super.*", "clean"),
    "superblock: rename": (KILL_BEFORE, "rename", "super.*", "clean"),
    "superblock: after rename": (KILL_AFTER, "rename", "super.*", "clean"),
    "superblock: removal": (KILL_BEFORE, "remove", "super.*", "clean"),
    "store directory: fsync": (KILL_BEFORE, "sync", ".", "clean"),
    "index: creation of a file": (KILL_BEFORE, "create", "index/*", "clean"),
    "index: write": (KILL_HALFWAY, "write", "index/*", "clean"),
    "index: sync": (KILL_BEFORE, "sync", "index/*", "clean"),
    "index: rename": (KILL_BEFORE, "rename", "index/*", "mount"),
    "index: removal of a file": (KILL_BEFORE, "remove", "index/*", "clean"),
    "clean: removal of a pack": (KILL_BEFORE, "remove", "packs/*", "clean"),
    "clean: after a removal": (KILL_AFTER, "remove", "packs/*", "clean"),
    "checkpoint: write": (KILL_HALFWAY, "write", "checkpoints/*", "clean"),
    "checkpoint: fdatasync": (KILL_BEFORE, "sync", "checkpoints/*", "clean"),
    "checkpoint: rename": (KILL_BEFORE, "rename", "checkpoints/*", "clean"),
    "checkpoint: after rename": (KILL_AFTER, "rename", "checkpoints/*", "clean"),
    "checkpoint: fsync of names": (KILL_BEFORE, "sync", "checkpoints", "clean"),
    "checkpoint: removal": (KILL_BEFORE, "remove", "checkpoints/*", "clean"),
    "reserve: write": (KILL_BEFORE, "write", "reserve", "clean"),
    "parity: write": (KILL_HALFWAY, "write", "parity/*", "clean"),
    "parity: sync": (KILL_BEFORE, "sync", "parity*", "clean"),
    "parity: rename": (KILL_BEFORE, "rename", "parity/*", "clean"),
    "parity: removal": (KILL_BEFORE, "remove", "parity/*", "clean"),
    "repair: rename to quarantine": (KILL_BEFORE, "rename", "quarantine/*", "mount"),
    "repair: rename of a pack": (KILL_BEFORE, "rename", "packs/*", "mount"),
    "close: write": (KILL_HALFWAY, "write", "packs/*", "close"),
    "close: sync": (KILL_BEFORE, "sync", "packs/*", "close"),
    "close: index": (KILL_BEFORE, "create+write+sync+rename+remove", "index/*", "close"),
    "sync: the kernel hands over": (None, "", "", "collect"),
    "recovery: write": (KILL_HALFWAY, "write", "packs/*", "mount"),
    "recovery: sync": (KILL_BEFORE, "sync", "packs*", "mount"),
    "recovery: any change": (KILL_BEFORE, "create+write+sync+rename+remove+mkdir+truncate", "*", "mount"),
    "recovery: index anew": (KILL_BEFORE, "create+write+sync+rename+remove+mkdir", "index*", "rebuild"),
    "recovery: rename of index": (KILL_BEFORE, "rename", "index*", "rebuild"),
}
WRITERS = 3
STEPS = 14
# A new store is made after so many rounds, so that they stay small and beginnings are met as well.
STORE_ROUNDS = 40
CHECK_EVERY = 13
# After so many violations the rest would only take time.
VIOLATIONS_MAX = 5
VERIFY_EVERY = 5


class Round:
    """The store, its writers and what is counted, over the rounds."""

    def __init__(self, program, library, work, seed):
        self.chance = random.Random(seed)
        self.seed, self.work = seed, work
        self.faults = Faults(library, f"{work}/control")
        self.store = Store(program, f"{work}/store", f"{work}/mnt", self.faults)
        self.world = None
        self.kills = {name: 0 for name in POINTS}
        self.rounds = dict(self.kills)
        self.broken = dict(self.kills)
        # How many calls of a point a round makes: kills fall on all of them.
        self.reach = {name: 3 for name in POINTS}
        self.violations = []
        self.second = self.without_index = self.checks = self.verified = self.confirmations = 0

    def new_world(self, number):
        if self.world:
            self.confirmations += self.world.confirmations
        self.store.make("--pack-size", "4M")
        self.store.mount()
        self.world = World(self.store, f"{self.seed}:{number}", WRITERS)
        self.world.prepare()

    def abandon(self):
        """Ends whatever is left of a store that has shown a violation."""
        self.faults.disarm()
        if self.store.process is not None and not self.store.ended():
            self.store.kill()
        self.store.close()
        self.store.detach()

    def choose(self, points):
        """One of the points that were met least, of those that can be met."""
        known = [name for name in points if self.kills[name] or self.rounds[name] < 4]
        least = min(self.kills[name] for name in known or points)
        return self.chance.choice([name for name in known or points if self.kills[name] <= least + 1])

    def arm(self, name):
        when, calls, files, _ = POINTS[name]
        first = self.chance.randint(1, self.reach[name])
        self.faults.arm(0, calls, files, when, first=first, end=first + 1)

    def learn(self, name):
        seen = self.faults.seen()
        self.rounds[name] += 1
        if self.faults.fired():
            self.kills[name] += 1
            self.reach[name] = min(max(self.reach[name], seen + 2), 200)
        else:
            self.reach[name] = max(1, seen)

    def work_round(self, phase):
        """Writers and commands, until they have done their part or the process has died."""
        todo = self.chance.choices(("snapshot", "delete", "sync"), k=2)
        if phase == "clean":
            todo = ["snapshot", "delete", "clean", "clean"]
        elif self.chance.random() < 0.1:
            todo.append("clean")
        commands, began = Commands(self.world, todo), time.monotonic()
        threads = [*self.world.start(STEPS), commands]
        commands.start()
        hang = None
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.05)
            if self.faults.fired() and not hang:
                hang = time.monotonic() + DYING_S
            if hang and time.monotonic() > hang:
                self.store.wait()
            if time.monotonic() - began > PATIENCE_S:
                self.store.abort()
                raise Violation("operations hang")
        if commands.error:
            raise commands.error
        return commands

    def collect(self):
        stop = threading.Event()
        data = self.chance.randbytes(1 << 20)

        def dirty():
            try:
                fd = os.open(self.scratch(), os.O_CREAT | os.O_RDWR)
                while not stop.is_set():
                    for at in range(24):
                        os.pwrite(fd, data, at << 20)
            except OSError:
                pass

        commands = Commands(self.world, ["sync"] * 50)
        threads = [threading.Thread(target=dirty, daemon=True), commands]
        for thread in threads:
            thread.start()
        time.sleep(self.chance.uniform(0.1, 0.6))
        self.store.kill()
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise Violation("an operation hangs")

    def scratch(self):
        return f"{self.store.point}/scratch"

    def one(self, name):
        phase = POINTS[name][3]
        self.faults.disarm()
        if phase == "collect":
            self.collect()
            self.rounds[name] += 1
            self.kills[name] += 1
            self.recover(name, phase)
            if os.path.exists(self.scratch()):
                os.unlink(self.scratch())
            return
        if phase in ("work", "clean"):
            self.arm(name)
        commands = self.work_round(phase)
        if phase == "close" or (phase in ("work", "clean") and not self.faults.fired()):
            if phase == "close":
                self.arm(name)
            self.store.run("umount", self.store.point)
        if phase in ("work", "clean", "close"):
            if self.faults.fired():
                self.store.wait()
            elif not self.store.ended(30):
                raise Violation("unmounting has not ended the process")
            for failed in commands.failed:
                if not self.faults.fired():
                    raise Violation(f"a command failed without a fault: {failed}")
            self.learn(name)
        else:
            self.store.kill()
        self.recover(name, phase)

    def recover(self, name, phase):
        views = self.world.view()
        self.store.close()
        if phase == "rebuild" or (phase != "mount" and self.chance.random() < 0.5):
            self.store.drop_index()
            self.without_index += 1
        # A mount that a dead process has left is no obstacle.
        if self.chance.random() < 0.5:
            self.store.detach()
        if phase in ("mount", "rebuild"):
            self.faults.disarm()
            self.arm(name)
            self.mount_under_fire()
            self.learn(name)
        elif self.chance.random() < 0.2:
            first = self.chance.randint(1, 60)
            self.faults.arm(
                0, "create+write+sync+rename+remove", "*", self.chance.choice((KILL_BEFORE, KILL_AFTER)), 0, first, first + 1
            )
            self.second += self.mount_under_fire()
        self.faults.disarm()
        if self.store.process is None:
            self.store.mount()
        problems = survivors(self.world, views, self.store.point, adopt=True)
        listed = snapshots_of(self.store, self.store.point)
        problems += snapshot_problems(listed, *self.world.sure_snapshots())
        self.world.adopt_snapshots(listed)
        if problems:
            raise Violation("; ".join(problems))

    def mount_under_fire(self):
        """Mounts with a rule armed; whether that has killed. A mount that was left alone may stay."""
        done = self.store.try_mount()
        if self.faults.fired():
            if done.returncode == 0:
                self.store.wait()
                self.store.close()
            return True
        if done.returncode:
            raise Violation(f"mount: exit {done.returncode}: {done.stderr}")
        return False

    def look_closer(self, number):
        if number % VERIFY_EVERY == 0:
            names = list(self.world.snapshots)
            problems = verify_problems(self.store, self.store.point, names)
            self.verified += len(names)
            if problems:
                raise Violation("; ".join(problems))
        if number % CHECK_EVERY == 0:
            self.store.must("check", self.store.point)
            self.checks += 1


def stop(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    program, library, work, rounds, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    wanted = os.environ.get("KILLPOINTS", "*")
    points = [name for name in POINTS if fnmatch.fnmatch(name, wanted)]
    if not points:
        sys.exit(f"no point is called {wanted}: {', '.join(POINTS)}")
    began = time.monotonic()
    run = Round(program, library, work, seed)
    number = 0
    for number in range(rounds):
        name = "making the store"
        try:
            if number % STORE_ROUNDS == 0:
                if number:
                    run.store.must("umount", run.store.point)
                    run.store.check()
                    run.checks += 1
                run.faults.disarm()
                run.new_world(number)
            name = run.choose(points)
            run.one(name)
            run.look_closer(number)
        except KeyboardInterrupt:
            run.abandon()
            break
        except Violation as violation:
            run.broken[name] = run.broken.get(name, 0) + 1
            run.violations.append(f"seed {seed}, round {number}, {name}: {violation}")
            if len(run.violations) >= VIOLATIONS_MAX:
                break
            run.abandon()
            run.new_world(number)
    if len(run.violations) < VIOLATIONS_MAX and run.store.process is not None:
        try:
            run.store.must("umount", run.store.point)
            run.store.check()
            run.checks += 1
        except Violation as violation:
            run.violations.append(f"seed {seed}, at the end: {violation}")
    spent = time.monotonic() - began
    kills = sum(run.kills.values())
    if not kills:
        run.violations.append("nothing was killed: the program does not call the C library, or no point was met")
    rows = [(name, run.rounds[name], run.kills[name], run.broken[name]) for name in points]
    title = (
        f"killpoints: seed {seed}: {number + 1} rounds, {kills} kills at these points and {run.second} more during recovery, "
        f"{run.without_index} times without the index; {run.confirmations + run.world.confirmations} confirmations; "
        f"{run.checks} checks, {run.verified} snapshots verified; {run.store.stuck} killed processes had to be helped to end; {len(run.violations)} violations; "
        f"{spent:.0f} s, {kills / spent:.1f} kills/s"
    )
    sys.exit(report(title, ("point", "rounds", "kills", "violations"), rows, run.violations))


main()
