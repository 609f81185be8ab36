"""The rounds of scripts/kill9: see there."""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

MMHFS, WORK, ROUNDS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
STORE, MNT = f"{WORK}/store", f"{WORK}/mnt"
WRITERS = 3
RECORD = 32
# What is known to be durable and right is read in full again in every so many rounds, an odd number so that it is
# done with and without an index, and at the end; in the others only this many files of each writer, and all sizes.
FULL_EVERY = 7
SAMPLE = 20
# A writer's oldest files are deleted when it has more.
KEPT_MAX = 150
chance = random.Random(SEED)


def run(*arguments, check=True):
    done = subprocess.run([MMHFS, *arguments], capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        sys.exit(f"kill9: {arguments}: exit {done.returncode}: {done.stderr}")
    return done


def daemon():
    text = open(f"{STORE}/lock").read().split()
    return int(text[text.index("pid") + 1])


def size(writer, number):
    dice = (writer * 1_000_003 + number) * 2_654_435_761 >> 7
    return (10, 700, 5_000, 60_000, 700, 5_000, 10, 300_000, 700, 60_000, 5_000)[dice % 11]


def body(writer, number):
    """Bytes that are like no other file's."""
    return hashlib.shake_128(f"{writer} {number}".encode()).digest(size(writer, number))


def record(writer, number):
    return f"{writer} {number}".encode().ljust(RECORD - 1, b".") + b"\n"


class Writer(threading.Thread):
    """Step n: append record n to the own journal, then make file n. What fsync promised is written down."""

    def __init__(self, number, base, first):
        super().__init__()
        self.number, self.at = number, first
        # The files base..settled are durable from the start and have been read since.
        self.base, self.settled = base, first
        self.synced_files, self.synced_records = set(range(base, first)), first
        self.dice = random.Random(chance.random())

    def run(self):
        folder = f"{MNT}/w{self.number}"
        try:
            journal = os.open(f"{folder}/journal", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            while True:
                n = self.at
                os.write(journal, record(self.number, n))
                temporary, final = f"{folder}/new", f"{folder}/{n}"
                fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
                data = body(self.number, n)
                for at in range(0, len(data), 16384):
                    os.write(fd, data[at : at + 16384])
                wants_sync = self.dice.random() < 0.3
                if wants_sync:
                    os.fsync(fd)
                os.close(fd)
                os.rename(temporary, final)
                if wants_sync:
                    top = os.open(folder, os.O_RDONLY)
                    os.fsync(top)
                    os.close(top)
                    self.synced_files.add(n)
                if self.dice.random() < 0.2:
                    os.fsync(journal)
                    self.synced_records = n + 1
                self.at += 1
        except OSError:
            return


def detach():
    for _ in range(100):
        if f" {MNT} " not in open("/proc/self/mountinfo").read():
            return
        subprocess.run(["umount", "-l", MNT], stderr=subprocess.DEVNULL) if os.geteuid() == 0 else subprocess.run(
            ["fusermount3", "-uz", MNT], stderr=subprocess.DEVNULL
        )
        time.sleep(0.02)
    sys.exit("kill9: the dead mount cannot be removed")


def survivors(writer, in_full):
    """What is there of a writer, which must be a prefix of its steps: the records 0..r, and the files base..f in full;
    since a record comes before its file, f <= r and r - f <= 1 apart from what the page cache held back.

    Gives the violations, the first number that has no file, the records, and the files that lack unsynced bytes."""
    folder = f"{MNT}/w{writer.number}"
    bad, early = [], []
    text = open(f"{folder}/journal", "rb").read() if os.path.exists(f"{folder}/journal") else b""
    records = len(text) // RECORD
    for n in range(records):
        if text[n * RECORD : (n + 1) * RECORD] != record(writer.number, n):
            bad.append(f"record {n} of writer {writer.number} is not what was written")
            break
    if records < writer.synced_records:
        bad.append(f"writer {writer.number}: {records} records, {writer.synced_records} were fsynced")
    numbers = sorted(int(n) for n in os.listdir(folder) if n.isdigit())
    there = set(numbers)
    for n in sorted(writer.synced_files - there):
        bad.append(f"file {n} of writer {writer.number} was fsynced and is gone")
    expected = range(writer.base, writer.base + len(numbers))
    if numbers != list(expected):
        missing = sorted(set(expected) - there)[:5]
        bad.append(f"names of writer {writer.number} are no prefix: {missing} are missing")
    old = [n for n in numbers if n < writer.settled]
    sample = set(chance.sample(old, min(SAMPLE, len(old))))
    for n in numbers:
        path = f"{folder}/{n}"
        if n < writer.settled and not in_full and n not in sample:
            if os.stat(path).st_size != size(writer.number, n):
                bad.append(f"file {n} of writer {writer.number} was fsynced and has another size")
            continue
        got = open(path, "rb").read()
        want = body(writer.number, n)
        if got == want:
            continue
        # Unsynced bytes may be missing at the end or be zeros still on their way; they are never anything else.
        if n in writer.synced_files:
            bad.append(f"file {n} of writer {writer.number} was fsynced and differs")
        elif is_early(got, want):
            early.append(n)
        else:
            bad.append(f"file {n} of writer {writer.number} has bytes that nobody wrote")
    return bad, numbers[-1] + 1 if numbers else writer.base, records, early


def is_early(got, want):
    """Whether `got` is what a file may look like before all its pages were handed over."""
    if len(got) > len(want):
        return False
    for at in range(0, len(got), 4096):
        page = got[at : at + 4096]
        if page != want[at : at + len(page)] and page.strip(b"\0"):
            return False
    return True


def settle(writer, there, records, early):
    """The writer that goes on after what has survived, from a state that is durable after the next sync."""
    folder = f"{MNT}/w{writer.number}"
    start = min(there, records)
    with open(f"{folder}/journal", "ab") as f:
        f.truncate(start * RECORD)
    base = max(writer.base, start - KEPT_MAX)
    for n in (*range(writer.base, base), *range(start, there)):
        os.unlink(f"{folder}/{n}")
    for n in early:
        if base <= n < start:
            open(f"{folder}/{n}", "wb").write(body(writer.number, n))
    return Writer(writer.number, base, start)


def mount(round_number):
    mounted = run("mount", STORE, MNT, check=False)
    if mounted.returncode:
        sys.exit(f"kill9: round {round_number}: mount: exit {mounted.returncode}: {mounted.stderr}")


def main():
    began = time.monotonic()
    os.mkdir(MNT)
    run("init", STORE)
    run("mount", STORE, MNT)
    for w in range(WRITERS):
        os.mkdir(f"{MNT}/w{w}")
    run("sync", MNT)
    writers = [Writer(w, 0, 0) for w in range(WRITERS)]
    kills = files = records = synced = without_index = 0
    violations = []
    for round_number in range(ROUNDS):
        for writer in writers:
            writer.start()
        time.sleep(chance.uniform(0.05, 1.5))
        os.kill(daemon(), signal.SIGKILL)
        kills += 1
        for writer in writers:
            writer.join(60)
        detach()
        if round_number % 2:
            shutil.rmtree(f"{STORE}/index", ignore_errors=True)
            without_index += 1
        mount(round_number)
        following = []
        in_full = round_number % FULL_EVERY == FULL_EVERY - 1
        for writer in writers:
            bad, there, lines, early = survivors(writer, in_full)
            violations += [f"round {round_number}: {line}" for line in bad]
            files += there - writer.settled
            synced += len(writer.synced_files) - (writer.settled - writer.base)
            following.append((writer, there, lines, early))
        if violations:
            break
        writers = [settle(*each) for each in following]
        run("sync", MNT)
    if not violations:
        run("umount", MNT)
        mount("the last")
        for writer in writers:
            bad, there, lines, _ = survivors(writer, True)
            violations += [f"at the end: {line}" for line in bad]
            records += lines
    run("umount", MNT)
    check = run("check", STORE, check=False)
    if check.returncode:
        violations.append(f"check: exit {check.returncode}: {check.stdout[-500:]}{check.stderr}")
    print(
        f"kill9: seed {SEED}: {kills} kills, {without_index} of them followed by the loss of the index; "
        f"{files} files that survived were read, {synced} of them fsynced; {records} records at the end; "
        f"{len(violations)} violations; {time.monotonic() - began:.0f} s"
    )
    for line in violations[:20]:
        print(line)
    sys.exit(bool(violations))


main()
