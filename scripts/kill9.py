"""The rounds of scripts/kill9: see there."""
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
chance = random.Random(SEED)


def run(*arguments, check=True):
    done = subprocess.run([MMHFS, *arguments], capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        sys.exit(f"kill9: {arguments}: exit {done.returncode}: {done.stderr}")
    return done


def daemon():
    text = open(f"{STORE}/lock").read().split()
    return int(text[text.index("pid") + 1])


def body(writer, number):
    r = random.Random(writer * 1_000_003 + number)
    return r.randbytes(r.choice((10, 700, 5_000, 60_000, 300_000)))


def record(writer, number):
    return f"{writer} {number}".encode().ljust(RECORD - 1, b".") + b"\n"


class Writer(threading.Thread):
    """Step n: append record n to the own journal, then make file n. What fsync promised is written down."""

    def __init__(self, number, first):
        super().__init__()
        self.number, self.at = number, first
        self.synced_files, self.synced_records = set(), 0
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


def survivors(writer):
    """What is there of a writer, which must be a prefix of its steps: the records 0..r, and the files 0..f in full;
    since a record comes before its file, f <= r and r - f <= 1 apart from what the page cache held back."""
    folder = f"{MNT}/w{writer.number}"
    bad = []
    text = open(f"{folder}/journal", "rb").read() if os.path.exists(f"{folder}/journal") else b""
    records = len(text) // RECORD
    for n in range(records):
        if text[n * RECORD : (n + 1) * RECORD] != record(writer.number, n):
            bad.append(f"record {n} of writer {writer.number} is not what was written")
            break
    if records < writer.synced_records:
        bad.append(f"writer {writer.number}: {records} records, {writer.synced_records} were fsynced")
    numbers = sorted(int(n) for n in os.listdir(folder) if n.isdigit())
    for n in writer.synced_files:
        if n not in numbers:
            bad.append(f"file {n} of writer {writer.number} was fsynced and is gone")
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(len(numbers))) - set(numbers))[:5]
        bad.append(f"names of writer {writer.number} are no prefix: {missing} are missing")
    for n in numbers:
        got = open(f"{folder}/{n}", "rb").read()
        want = body(writer.number, n)
        # Unsynced bytes may be missing at the end or be zeros still on their way; they are never anything else.
        if n in writer.synced_files and got != want:
            bad.append(f"file {n} of writer {writer.number} was fsynced and differs")
        elif got != want and not is_early(got, want):
            bad.append(f"file {n} of writer {writer.number} has bytes that nobody wrote")
    return bad, len(numbers), records


def is_early(got, want):
    """Whether `got` is what a file may look like before all its pages were handed over."""
    if len(got) > len(want):
        return False
    for at in range(0, len(got), 4096):
        page = got[at : at + 4096]
        if page != want[at : at + len(page)] and page.strip(b"\0"):
            return False
    return True


def main():
    os.mkdir(MNT)
    run("init", STORE)
    run("mount", STORE, MNT)
    for w in range(WRITERS):
        os.mkdir(f"{MNT}/w{w}")
    run("sync", MNT)
    writers = [Writer(w, 0) for w in range(WRITERS)]
    files = records = synced = without_index = 0
    violations = []
    for round_number in range(ROUNDS):
        for writer in writers:
            writer.start()
        time.sleep(chance.uniform(0.05, 1.5))
        os.kill(daemon(), signal.SIGKILL)
        for writer in writers:
            writer.join(60)
        detach()
        if round_number % 2:
            shutil.rmtree(f"{STORE}/index", ignore_errors=True)
            without_index += 1
        mounted = run("mount", STORE, MNT, check=False)
        if mounted.returncode:
            sys.exit(f"kill9: round {round_number}: mount: exit {mounted.returncode}: {mounted.stderr}")
        files = records = synced = 0
        following = []
        for writer in writers:
            bad, there, lines = survivors(writer)
            violations += [f"round {round_number}: {line}" for line in bad]
            files, records, synced = files + there, records + lines, synced + len(writer.synced_files)
            # The next round goes on after what has survived, from a state that is durable.
            folder = f"{MNT}/w{writer.number}"
            start = min(there, lines)
            with open(f"{folder}/journal", "ab") as f:
                f.truncate(start * RECORD)
            for n in range(start, there):
                os.unlink(f"{folder}/{n}")
            for n in range(start):
                if n not in writer.synced_files and open(f"{folder}/{n}", "rb").read() != body(writer.number, n):
                    open(f"{folder}/{n}", "wb").write(body(writer.number, n))
            after = Writer(writer.number, start)
            after.synced_files, after.synced_records = set(range(start)), start
            following.append(after)
        run("sync", MNT)
        writers = following
        if violations:
            break
    run("umount", MNT)
    check = run("check", STORE, check=False)
    if check.returncode:
        violations.append(f"check: exit {check.returncode}: {check.stdout[-500:]}{check.stderr}")
    print(
        f"kill9: seed {SEED}: {round_number + 1} kills, {without_index} of them followed by the loss of the index; "
        f"{files} files and {records} records at the end, {synced} files fsynced; {len(violations)} violations"
    )
    for line in violations[:20]:
        print(line)
    sys.exit(bool(violations))


main()
