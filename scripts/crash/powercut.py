"""The rounds of scripts/powercut: see there."""
import os
import random
import subprocess
import sys
import time

from harness import FOREVER, SWALLOW, Faults, Store, Violation, report
from model import Commands, World, snapshot_problems, snapshots_of, survivors, verify_problems

WRITERS = 3
IMAGE_LEN = 384 << 20
# Mount options of the filesystem that holds the store: nothing is written out by itself while a round lasts.
OPTIONS = {"ext4": "commit=300", "xfs": "nouuid"}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
CHECK_EVERY, VERIFY_EVERY = 6, 4
ROUNDS_PER_IMAGE = 30


def system(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"powercut: {' '.join(command)}: {done.stderr.strip()}")


class Image:
    """A filesystem in a file, and its copies: what is copied is what the filesystem has sent to its device."""

    def __init__(self, work, kind):
        self.work, self.kind = work, kind
        self.file, self.copy = f"{work}/host/disk.img", f"{work}/host/copy.img"
        self.at, self.copy_at = f"{work}/disk", f"{work}/cut"
        for point in (self.at, self.copy_at):
            os.makedirs(point, exist_ok=True)

    def make(self):
        with open(self.file, "wb") as f:
            f.truncate(IMAGE_LEN)
        system(*MAKE[self.kind], self.file)
        system("mount", "-o", f"loop,{OPTIONS[self.kind]}", self.file, self.at)

    def drop(self):
        system("umount", self.at)

    def cut(self):
        # The host filesystem holds the file's lock while it clones, so the copy is of one moment.
        system("cp", "--reflink=always", self.file, self.copy)

    def open_copy(self):
        system("mount", "-o", f"loop,{OPTIONS[self.kind]}", self.copy, self.copy_at)

    def close_copy(self):
        system("umount", self.copy_at)


class Run:
    def __init__(self, program, library, work, seed, kind, blind):
        self.chance = random.Random(seed)
        self.seed, self.blind = seed, blind
        self.faults = Faults(library, f"{work}/control")
        self.image = Image(work, kind)
        self.store = Store(program, f"{self.image.at}/store", f"{work}/mnt", self.faults)
        self.cut_store = Store(program, f"{self.image.copy_at}/store", f"{work}/cut-mnt")
        self.world = None
        self.confirmations = self.without_index = self.checks = self.verified = 0
        self.at_moments = {}

    def begin(self, number):
        self.image.make()
        self.faults.disarm()
        self.store.make("--pack-size", "4M")
        # What init has made is durable when it returns; here the test of that ends at the directory above.
        fd = os.open(self.image.at, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        if self.blind:
            self.faults.arm(0, "sync", self.blind, SWALLOW, first=1, end=FOREVER)
        self.store.mount()
        self.world = World(self.store, f"{self.seed}:{number}", WRITERS)
        self.world.prepare()

    def end(self):
        self.confirmations += self.world.confirmations
        self.world = None
        self.store.must("umount", self.store.point)
        self.store.close()
        self.image.drop()

    def one(self, number):
        world = self.world
        todo = self.chance.choices(("snapshot", "delete", "sync", "clean", "snapshot"), k=2)
        commands = Commands(world, todo)
        threads = [*world.start(60), commands]
        commands.start()
        self.wait_for(self.chance.choice(("fsync", "fsync", "fsync", "command", "end")), threads, commands)
        views = world.view()
        sure, gone = world.sure_snapshots()
        self.image.cut()
        # What has been issued by now may be in the copy; what was confirmed before it began must be.
        world.widen(views)
        sure = {name: seed for name, seed in sure.items() if name in world.sure_snapshots()[0]}
        world.stop.set()
        for thread in threads:
            thread.join(300)
            if thread.is_alive():
                raise Violation("an operation hangs")
        if commands.error:
            raise commands.error
        self.look(number, views, sure, gone)

    def wait_for(self, what, threads, commands):
        """A moment right after a confirmation, while the others go on."""
        self.at_moments[what] = self.at_moments.get(what, 0) + 1
        if what == "end":
            for thread in threads:
                thread.join(300)
        elif what == "command":
            commands.join(300)
        else:
            wanted = self.world.confirmations + self.chance.randint(1, 40)
            with self.world.confirmed:
                self.world.confirmed.wait_for(
                    lambda: self.world.confirmations >= wanted or not any(t.is_alive() for t in threads), timeout=5
                )

    def look(self, number, views, sure, gone):
        self.image.open_copy()
        try:
            if self.chance.random() < 0.4:
                self.cut_store.drop_index()
                self.without_index += 1
            self.cut_store.mount()
            problems = survivors(self.world, views, self.cut_store.point, adopt=False)
            listed = snapshots_of(self.cut_store, self.cut_store.point)
            problems += snapshot_problems(listed, sure, gone)
            if number % VERIFY_EVERY == 0:
                problems += verify_problems(self.cut_store, self.cut_store.point, list(listed))
                self.verified += len(listed)
            self.cut_store.must("umount", self.cut_store.point)
            if number % CHECK_EVERY == 0:
                self.cut_store.check()
                self.checks += 1
            if problems:
                raise Violation("; ".join(problems))
        finally:
            if self.cut_store.process is not None and not self.cut_store.ended():
                self.cut_store.kill()
            self.cut_store.close()
            self.cut_store.detach()
            self.image.close_copy()


def main():
    program, library, work, rounds, seed, kind = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
    blind = os.environ.get("POWERCUT_BLIND", "")
    began = time.monotonic()
    run = Run(program, library, work, seed, kind, blind)
    violations, bad = [], 0
    for number in range(rounds):
        try:
            if number % ROUNDS_PER_IMAGE == 0:
                if run.world:
                    run.end()
                run.begin(number)
            run.one(number)
        except Violation as violation:
            bad += 1
            violations.append(f"seed {seed}, round {number}: {violation}")
            if not blind and bad >= 5:
                break
    run.end()
    rows = [(f"after: {what}", count) for what, count in sorted(run.at_moments.items())]
    title = (
        f"powercut: {kind}, seed {seed}: {number + 1} cuts, {run.without_index} of them followed by the loss of the index; "
        f"{run.confirmations} confirmations; {run.checks} checks, {run.verified} snapshots verified; "
        f"{bad} cuts with violations; {time.monotonic() - began:.0f} s"
    )
    status = report(title, ("moment", "cuts"), rows, violations)
    if blind:
        print(f"syncs of {blind} were swallowed: {'found' if status else 'NOT found, so this test shows nothing'}")
        status = not status
    sys.exit(status)


main()
