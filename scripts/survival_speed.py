"""Speed of parity beside par2, in the same run, and the latency of a read that heals: scripts/survival speed."""
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

MMHFS, WORK = sys.argv[1], sys.argv[2]
MIB, SECTOR, PERCENT = 1 << 20, 4096, 10
READS = 20
ROUNDS = 5
dice = random.Random(1)


def run(*arguments, codes=(0,)):
    done = subprocess.run([MMHFS, *arguments], capture_output=True, text=True, timeout=600)
    if done.returncode not in codes:
        sys.exit(f"survival: {arguments}: exit {done.returncode}: {done.stderr}")
    return done


def timed(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def packs(store):
    return sorted(f"{store}/packs/{name}" for name in os.listdir(f"{store}/packs"))


def spoil(path, off, length):
    with open(path, "r+b") as f:
        f.seek(off)
        f.write(dice.randbytes(length))


def fill():
    store, mount = f"{WORK}/store", f"{WORK}/mnt"
    os.mkdir(mount)
    run("init", "--pack-size", "16M", "--parity", str(PERCENT), store)
    run("mount", store, mount)
    # What no codec makes smaller: a full group of 16 packs, and what the log adds.
    for n in range(64):
        with open(f"{mount}/{n}", "wb") as f:
            f.write(dice.randbytes(4 * MIB))
    run("umount", mount)
    run("protect", store)
    return store, mount


def par2(directory, *arguments):
    done = subprocess.run(["par2", *arguments], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"survival: par2 {arguments}: exit {done.returncode}: {done.stdout[-500:]}")


def encoded(store, other, names):
    """Seconds that par2 and mmhfs take to encode the same packs."""
    for name in os.listdir(other):
        if name.endswith(".par2"):
            os.remove(f"{other}/{name}")
    theirs = timed(lambda: par2(other, "create", "-q", f"-r{PERCENT}", "all.par2", *names))
    shutil.rmtree(f"{store}/parity")
    return theirs, timed(lambda: run("protect", store))


def repaired(store, other):
    """Seconds that par2 and mmhfs take to repair the same damage: 5 % of each of eight packs, in one piece."""
    for path in packs(store)[1:9]:
        at, length = dice.randrange(MIB) // SECTOR * SECTOR, os.path.getsize(path) // 20 // SECTOR * SECTOR
        spoil(path, at, length)
        shutil.copy(path, f"{other}/{os.path.basename(path)}")
    theirs = timed(lambda: par2(other, "repair", "-q", "all.par2"))
    ours = timed(lambda: run("scrub", "--repair", store, codes=range(0, 40)))
    for path in packs(store):
        with open(path, "rb") as one, open(f"{other}/{os.path.basename(path)}", "rb") as two:
            if one.read() != two.read():
                sys.exit(f"survival: {path} was not repaired to the same bytes")
    # par2 keeps the damaged files beside the repaired ones.
    for name in os.listdir(other):
        if name.endswith(".1"):
            os.remove(f"{other}/{name}")
    return theirs, ours


def report(what, size, rounds):
    """Prints the medians of the rounds, and answers that of the ratios."""
    ratios = sorted(theirs / ours for theirs, ours in rounds)
    theirs, ours = (statistics.median(side) for side in zip(*rounds))
    median = statistics.median(ratios)
    print(
        f"{what}: {size / ours:.0f} MiB/s of the store, par2 {size / theirs:.0f} MiB/s: median of {len(ratios)} rounds "
        f"{median:.1f} times as fast, least {ratios[0]:.1f}, most {ratios[-1]:.1f}",
        flush=True,
    )
    return median


def main():
    store, mount = fill()
    size = sum(os.path.getsize(path) for path in packs(store)) / MIB
    other = f"{WORK}/par2"
    shutil.copytree(f"{store}/packs", other)
    names = sorted(os.listdir(other))

    encode, repair = [], []
    for _ in range(ROUNDS):
        encode.append(encoded(store, other, names))
        repair.append(repaired(store, other))
    encode_ratio = report(f"encoding {size:.0f} MiB at {PERCENT} %", size, encode)
    repair_ratio = report("repairing 8 packs of them", size, repair)

    reads = []
    for n in range(READS):
        data = [path for path in packs(store) if path.endswith(".dat")]
        spoil(dice.choice(data), dice.randrange(MIB, 12 * MIB) // SECTOR * SECTOR, SECTOR)
        found = json.loads(run("check", "--json", store, codes=range(0, 40)).stdout.splitlines()[-1])
        paths = {path for problem in found["problems"] for path in problem["paths"]}
        run("mount", store, mount)
        slowest = 0.0
        for path in sorted(paths):
            fd = os.open(f"{mount}/{path.lstrip('/')}", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for off in range(0, 4 * MIB, 4096):
                began = time.monotonic()
                os.pread(fd, 4096, off)
                slowest = max(slowest, time.monotonic() - began)
            os.close(fd)
        if paths:
            reads.append(slowest * 1000)
        run("umount", mount)
        if run("scrub", "--repair", store, codes=range(0, 40)) and run("check", store):
            pass
    print(
        f"a read of 4 KiB that heals a sector, {len(reads)} times: median {statistics.median(reads):.0f} ms, "
        f"longest {max(reads):.0f} ms, shortest {min(reads):.0f} ms"
    )
    missed = [("encoding", encode_ratio < 20), ("repair", repair_ratio < 5), ("healing read", statistics.median(reads) > 250)]
    missed = [name for name, is_missed in missed if is_missed]
    if missed:
        sys.exit(f"survival: goal missed: {', '.join(missed)}")


main()
