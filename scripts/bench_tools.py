"""What has no counterpart in a filesystem: scripts/bench tools. bench_tools.py MMHFS WORK CORPUS"""
import os
import shutil
import statistics
import sys
import time

from bench_peers import PEERS, Disk, drop_caches, shell

MMHFS, WORK, CORPUS = sys.argv[1:4]
ROUNDS = 5


def seconds(command, **options):
    began = time.monotonic()
    shell(command, **options)
    return time.monotonic() - began


def report(what, goal, measured, detail):
    """One line: the median of the rounds' ratios beside the goal, which is a least ratio or, below zero, a most."""
    values = sorted(measured)
    median = statistics.median(values)
    met = median >= goal if goal > 0 else median <= -goal
    word = "least" if goal > 0 else "most"
    print(f"{what}: {median:.3f} (goal: at {word} {abs(goal)}; {values[0]:.3f} to {values[-1]:.3f}); {detail}", flush=True)
    return met


def seeds():
    """`mmhfs seed` of files in the page cache, beside b3sum of the same files."""
    tree = f"{CORPUS}/tree"
    shell(f"find {tree} -type f -print0 | xargs -0 cat >/dev/null")
    pairs = [
        (seconds(f"find {tree} -type f -print0 | xargs -0 b3sum >/dev/null"), seconds(f"{MMHFS} -q seed {tree}"))
        for _ in range(ROUNDS)
    ]
    ours = statistics.median(ours for _, ours in pairs)
    return report("seed, as a multiple of b3sum's speed", 0.8, [theirs / ours for theirs, ours in pairs], f"{ours:.2f} s")


def restores(disk):
    """A snapshot that nothing has cached is restored to an ext4, beside restic and borg."""
    at, tree = f"{disk.at}/restores", f"{CORPUS}/tree"
    os.makedirs(at)
    environment = dict(os.environ, RESTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes", HOME=at)
    shell(f"{MMHFS} -q init {at}/store && mkdir {at}/mnt && {MMHFS} -q mount {at}/store {at}/mnt")
    shell(f"cp -r {tree} {at}/mnt/ && {MMHFS} -q snapshot {at}/mnt one && {MMHFS} -q umount {at}/mnt")
    shell(f"restic -q init -r {at}/restic && restic -q backup -r {at}/restic {tree}", env=environment)
    shell(f"borg init -e none {at}/borg && borg create -C zstd,3 {at}/borg::one {tree}", env=environment)
    commands = {
        "mmhfs": f"{MMHFS} -q restore {at}/store one {at}/out/tree",
        "restic": f"restic -q restore -r {at}/restic latest --target {at}/out",
        "borg": f"cd {at}/out && borg extract {at}/borg::one",
    }
    took = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            shutil.rmtree(f"{at}/out", ignore_errors=True)
            os.mkdir(f"{at}/out")
            drop_caches()
            took[name].append(seconds(f"({command}) && sync -f {at}", env=environment))
    met = True
    for name in ("restic", "borg"):
        ratios = [theirs / ours for theirs, ours in zip(took[name], took["mmhfs"])]
        medians = f"{statistics.median(took['mmhfs']):.2f} s, {name} {statistics.median(took[name]):.2f} s"
        met &= report(f"restore, as a multiple of {name}'s speed", 1.5, ratios, medians)
    shutil.rmtree(at)
    return met


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def snapshots_and_parity(disk):
    """The first snapshot of a tree that was copied, and the CPU time of the daemon with parity beside that without."""
    shares, first = [], []
    for _ in range(ROUNDS):
        cpu = {}
        for name in ("mmhfs", "mmhfs-p0"):
            peer = PEERS[name](WORK, disk, MMHFS)
            peer.make()
            copied = seconds(f"cp -r {CORPUS}/tree {peer.path}/ && {MMHFS} -q sync {peer.path}")
            if name == "mmhfs":
                first.append(seconds(f"{MMHFS} -q snapshot {peer.path} one") / copied)
                shell(f"{MMHFS} -q protect {peer.path}")
            else:
                shell(f"{MMHFS} -q snapshot {peer.path} one")
            cpu[name] = cpu_of(peer.daemon())
            peer.remove()
        shares.append(cpu["mmhfs"] / cpu["mmhfs-p0"] - 1)
    met = report("first snapshot, as a share of the copy's time", -0.05, first, f"{ROUNDS} rounds")
    return met & report("parity, as a share of the CPU time of writing", -0.2, shares, f"{ROUNDS} rounds")


def main():
    disk = Disk(WORK, "12G")
    met = [seeds(), restores(disk), snapshots_and_parity(disk)]
    disk.close()
    print(f"bench: {met.count(False)} of {len(met)} groups miss a goal")


main()
