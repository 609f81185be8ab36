"""The rounds of scripts/endurance: see there."""
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

MMHFS, WORK, MINUTES, SEED = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
STORE, MNT = f"{WORK}/store", f"{WORK}/mnt"
WRITERS, FILES, SNAPSHOTS = 3, 120, 12
SECTOR = 4096
# Damage, already repaired, is looked for: exit codes of scrub that are no failure (docs/cli.md).
REPAIRED = (0, 21)
SIZES = (10, 700, 5_000, 60_000, 300_000, 2_000_000, 9_000_000)
chance = random.Random(SEED)
violations, counts = [], {}


def count(what, n=1):
    counts[what] = counts.get(what, 0) + n


def run(*arguments, codes=(0,)):
    done = subprocess.run([MMHFS, *arguments], capture_output=True, text=True, timeout=900)
    if codes is not None and done.returncode not in codes:
        violations.append(f"{arguments}: exit {done.returncode}: {done.stdout[-300:]}{done.stderr[-500:]}")
    return done


def body(name, version):
    """Bytes of a version of a file: partly its own, partly what other files have as well, so that there is something to
    deduplicate; half of it compresses."""
    dice = random.Random(f"{name} {version}")
    size = dice.choice(SIZES)
    own = hashlib.shake_128(f"{name} {version}".encode()).digest(size // 2)
    common = hashlib.shake_128(str(dice.randrange(8)).encode()).digest(size // 4 + 1)
    return (own + common + common.hex().encode())[:size]


class Writer(threading.Thread):
    """Makes, replaces, links and removes the files of a directory. `durable` is what was synced: the version of each file;
    `newer` what came after, which may survive a crash or not."""

    def __init__(self, number):
        super().__init__()
        self.folder = f"w{number}"
        self.number, self.dice = number, random.Random(f"{SEED} {number} {chance.random()}")
        self.durable, self.newer, self.stop, self.version = {}, {}, threading.Event(), 0

    def again(self):
        """The same writer in a new thread."""
        other = Writer(self.number)
        other.durable, other.newer, other.version = self.durable, self.newer, self.version
        return other

    def now(self, name):
        """The version that the live tree has; `None`: no such file."""
        return self.newer[name][-1] if name in self.newer else self.durable.get(name)

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except OSError:
            # The daemon was killed: what this step wanted may have happened.
            return

    def step(self):
        name = f"{self.dice.randrange(FILES):03}"
        path, temporary = f"{MNT}/{self.folder}/{name}", f"{MNT}/{self.folder}/new"
        if self.now(name) is not None and self.dice.random() < 0.25:
            self.newer.setdefault(name, []).append(None)
            os.unlink(path)
            count("deletions")
            return
        self.version += 1
        with open(temporary, "wb", buffering=0) as f:
            data = body(f"{self.folder}/{name}", self.version)
            for at in range(0, len(data), 1 << 17):
                f.write(data[at : at + (1 << 17)])
            # Without this a crash may leave a file of zeros: the name reaches the store before the pages do.
            os.fsync(f.fileno())
        self.newer.setdefault(name, []).append(self.version)
        os.rename(temporary, path)
        count("files written")

    def settle(self):
        """All that was done is durable now."""
        for name, versions in self.newer.items():
            self.durable[name] = versions[-1]
        self.newer = {}

    def look(self, in_full):
        """Compares the directory with what may be there, and takes over what is."""
        there = set(os.listdir(f"{MNT}/{self.folder}")) - {"new"}
        for name in sorted(there | set(self.durable) | set(self.newer)):
            allowed = [self.durable.get(name), *self.newer.get(name, [])]
            if name not in there:
                if None not in allowed:
                    violations.append(f"{self.folder}/{name} is gone")
                self.durable[name] = None
                continue
            if not in_full and self.dice.random() < 0.7 and name not in self.newer:
                continue
            with open(f"{MNT}/{self.folder}/{name}", "rb") as f:
                got = f.read()
            count("files compared")
            found = [v for v in allowed if v is not None and body(f"{self.folder}/{name}", v) == got]
            if not found:
                violations.append(f"{self.folder}/{name} has bytes of none of the versions {allowed}")
            else:
                self.durable[name] = found[-1]
        self.newer = {}


def daemon():
    text = open(f"{STORE}/lock").read().split()
    return int(text[text.index("pid") + 1])


def detach():
    for _ in range(200):
        if f" {MNT} " not in open("/proc/self/mountinfo").read():
            return
        subprocess.run(["umount", "-l", MNT], stderr=subprocess.DEVNULL)
        time.sleep(0.02)


def covered():
    """Packs with parity, and their lengths (docs/format.md, "Parity files")."""
    found = {}
    folder = f"{STORE}/parity"
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if not name.endswith(".par"):
            continue
        try:
            head = open(f"{folder}/{name}", "rb").read(SECTOR)
        except FileNotFoundError:
            continue
        (members,) = struct.unpack_from("<H", head, 12)
        for n in range(members):
            number, kind = struct.unpack_from("<QB", head, 64 + 64 * n)
            (length,) = struct.unpack_from("<Q", head, 80 + 64 * n)
            found[f"{STORE}/packs/{number:016x}.{'log' if kind == 1 else 'dat'}"] = length
    return {path: length for path, length in found.items() if os.path.exists(path)}


def damage():
    """Spoils a few sectors of one pack that has parity."""
    packs = covered()
    if not packs:
        return
    path = chance.choice(sorted(packs))
    length = chance.choice([1, 2, 6]) * SECTOR
    at = chance.randrange(max(1, packs[path] - length))
    try:
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(chance.randbytes(min(length, packs[path] - at)))
        count("damages")
    except FileNotFoundError:
        pass


def snapshot(writers, number):
    """With the writers at rest: the seed is that of the files as a program sees them."""
    name = f"s{number}"
    seed = run("snapshot", MNT, name).stdout.strip()
    plain = run("seed", MNT).stdout.strip()
    if seed != plain:
        violations.append(f"snapshot {name} has the seed {seed}, its files {plain}")
    for writer in writers:
        writer.settle()
    count("snapshots")
    return name, seed


def retire(snapshots):
    while len(snapshots) > SNAPSHOTS:
        name = chance.choice(sorted(snapshots))
        run("delete-snapshot", MNT, name)
        del snapshots[name]
        count("snapshots deleted")


def main():
    os.mkdir(MNT)
    run("init", "--pack-size", "8M", STORE)
    run("mount", "--memory", "256M", STORE, MNT)
    writers = [Writer(n) for n in range(WRITERS)]
    for writer in writers:
        os.mkdir(f"{MNT}/{writer.folder}")
    run("sync", MNT)
    snapshots, round_number, end = {}, 0, time.monotonic() + MINUTES * 60
    while time.monotonic() < end and not violations:
        round_number += 1
        for writer in writers:
            writer.start()
        jobs = []
        if chance.random() < 0.5:
            jobs.append(threading.Thread(target=lambda: (run("clean", MNT, codes=None), count("cleanings"))))
        if chance.random() < 0.5:
            damage()
            jobs.append(threading.Thread(target=lambda: (run("scrub", "--repair", MNT, codes=None), count("scrubs"))))
        for job in jobs:
            job.start()
        time.sleep(chance.uniform(0.5, 4))
        if chance.random() < 0.4:
            os.kill(daemon(), signal.SIGKILL)
            count("kills")
            for thread in (*writers, *jobs):
                thread.join()
            detach()
            if chance.random() < 0.3:
                shutil.rmtree(f"{STORE}/index", ignore_errors=True)
                count("indexes lost")
            run("mount", "--memory", "256M", STORE, MNT)
            writers = [writer.again() for writer in writers]
            for writer in writers:
                writer.look(chance.random() < 0.2)
            run("sync", MNT)
        else:
            for writer in writers:
                writer.stop.set()
            for thread in (*writers, *jobs):
                thread.join()
            writers = [writer.again() for writer in writers]
        # No more damage than one pack's parity can take at a time.
        run("scrub", "--repair", MNT, codes=REPAIRED)
        if chance.random() < 0.5 and not violations:
            name, seed = snapshot(writers, round_number)
            snapshots[name] = seed
            retire(snapshots)
        if round_number % 20 == 0:
            for name, seed in sorted(snapshots.items()):
                run("verify", MNT, name)
            print(f"round {round_number}: {counts}", flush=True)
    finish(writers, snapshots)
    print(f"endurance: seed {SEED}: {round_number} rounds, {counts}, {len(violations)} violations")
    for line in violations[:20]:
        print(line)
    sys.exit(bool(violations))


def size_of(store):
    folders = [f"{store}/{name}" for name in ("packs", "parity", "checkpoints")]
    return sum(os.path.getsize(f"{f}/{name}") for f in folders if os.path.isdir(f) for name in os.listdir(f))


def finish(writers, snapshots):
    run("sync", MNT)
    for writer in writers:
        writer.look(True)
    known = {s["name"]: s["seed"] for s in json.loads(run("snapshots", "--json", MNT).stdout or "[]")}
    for name, seed in snapshots.items():
        if known.get(name) != seed:
            violations.append(f"snapshot {name} is {known.get(name)}, not {seed}")
        run("verify", MNT, name)
    run("umount", MNT)
    for command in ("check", "scrub"):
        run(command, STORE)
    if violations:
        return
    # Deleting and cleaning, and how much more there is than in a new store with the same tree.
    run("mount", STORE, MNT)
    for name in snapshots:
        run("delete-snapshot", MNT, name)
    for writer in writers[1:]:
        shutil.rmtree(f"{MNT}/{writer.folder}")
    run("sync", MNT)
    run("clean", MNT)
    run("umount", MNT)
    run("check", STORE)
    other, mount = f"{WORK}/new", f"{WORK}/new.mnt"
    os.mkdir(mount)
    run("init", "--pack-size", "8M", other)
    run("mount", other, mount)
    run("mount", STORE, MNT)
    subprocess.run(["cp", "-a", f"{MNT}/.", mount], check=True)
    run("umount", mount)
    run("umount", MNT)
    mine, fresh = size_of(STORE), size_of(other)
    print(f"after deleting and cleaning: {mine >> 10} KiB, a new store with the same tree {fresh >> 10} KiB: {mine / fresh:.3f}")
    if mine > 1.15 * fresh:
        violations.append("the store is more than 15 % larger than a new one with the same tree")


main()
