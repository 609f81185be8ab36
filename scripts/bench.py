"""The workloads of scripts/bench, and the table that they give: bench.py MMHFS WORK CORPUS OUT [OPTION…] [WORKLOAD…]."""
import argparse
import json
import multiprocessing
import os
import sqlite3
import statistics
import sys
import time

from bench_peers import PEERS, Disk, shell

MIB = 1 << 20
# How fast mmhfs is to be, as a multiple of another filesystem's speed in the same round (docs/performance.md).
GOALS = {
    "large file: write, fsync": [("btrfs", 1.0)],
    "tree: copy, sync": [("btrfs", 0.7), ("gocryptfs", 2.0)],
    "large file: read cold": [("btrfs", 1.0)],
    "tree: read cold": [("btrfs", 1.0)],
    "large file: read warm": [("ext4", 0.9)],
    "random 4 KiB: read warm": [("ext4", 0.9)],
    "random 4 KiB: read cold": [("btrfs", 1.0)],
    "random 4 KiB: read cold, 2 jobs": [("btrfs", 1.0)],
    "random 4 KiB: overwrite, fdatasync each": [("btrfs", 1.5)],
    "random 4 KiB: overwrite, fsync at the end": [("btrfs", 0.8)],
    "sqlite: transactions, rollback journal": [("btrfs", 1.0)],
    "sqlite: transactions, write-ahead log": [("btrfs", 1.0)],
    "small files: create": [("btrfs", 0.8), ("gocryptfs", 5.0)],
    "small files: create, 2 clients": [("btrfs", 0.6)],
    "small files: unlink": [("btrfs", 0.8), ("gocryptfs", 5.0)],
    "untar, sync": [("btrfs", 0.8), ("gocryptfs", 5.0)],
    "tree: find, stat cold": [("bindfs", 3.0), ("gocryptfs", 4.0)],
    "git: clone": [("btrfs", 0.5)],
    "git: status warm": [("btrfs", 1 / 1.5)],
    "compile": [("ext4", 0.97)],
    "compressed files: write, sync": [("btrfs", 0.8)],
    "compressed files: read cold": [("btrfs", 0.8)],
}


class Bench:
    """One filesystem in one round."""

    def __init__(self, peer, corpus, quick, note):
        self.peer, self.corpus, self.quick, self.note = peer, corpus, quick, note
        self.at = peer.path

    def timed(self, row, unit, amount, work):
        """Notes how much of `amount` was done in a second; `work` may say instead how long what was wanted took."""
        began = time.monotonic()
        told = work()
        seconds = told if isinstance(told, float) else time.monotonic() - began
        self.note(row, unit, amount / seconds)

    def copy(self, name, to=None):
        shell(f"cp -r {self.corpus}/{name} {self.at}/{to or name}")

    def large_len(self):
        return min(os.path.getsize(f"{self.corpus}/large"), (128 if self.quick else 512) * MIB)

    def have_large(self):
        path = f"{self.at}/large"
        if not os.path.exists(path):
            shell(f"head -c {self.large_len()} {self.corpus}/large >{path}")
            self.peer.sync()
        return path

    def have_tree(self):
        if not os.path.exists(f"{self.at}/tree"):
            self.copy("tree")
            self.peer.sync()

    # ---- workloads -------------------------------------------------------------------------------

    def large(self):
        size = self.large_len()
        shell(f"cat {self.corpus}/large >/dev/null")
        write = f"head -c {size} {self.corpus}/large | dd of={self.at}/large bs=1M iflag=fullblock conv=fsync status=none"
        self.timed("large file: write, fsync", "MiB/s", size / MIB, lambda: shell(write))
        self.peer.cold()
        read = f"dd if={self.at}/large of=/dev/null bs=1M status=none"
        self.timed("large file: read cold", "MiB/s", size / MIB, lambda: shell(read))
        self.timed("large file: read warm", "MiB/s", size / MIB, lambda: shell(read))

    def tree(self):
        size, read = read_all(f"{self.corpus}/tree"), f"find {self.at}/tree -type f -print0 | xargs -0 cat >/dev/null"

        def copy():
            self.copy("tree")
            self.peer.sync()

        self.timed("tree: copy, sync", "MiB/s", size / MIB, copy)
        self.note("tree: stored", "of the files' bytes", self.peer.stored() / size)
        self.peer.cold()
        self.timed("tree: read cold", "MiB/s", size / MIB, lambda: shell(read))
        self.timed("tree: read warm", "MiB/s", size / MIB, lambda: shell(read))

    def find(self):
        self.have_tree()
        stat = f"find {self.at}/tree -print0 | xargs -0 stat -c %s >/dev/null"
        count = int(shell(f"find {self.corpus}/tree | wc -l"))
        self.peer.cold()
        self.timed("tree: find, stat cold", "files/s", count, lambda: shell(stat))
        self.timed("tree: find, stat warm", "files/s", count, lambda: shell(stat))

    def fio(self, row, options):
        path = self.have_large()
        base = f"fio --name=x --filename={path} --size={os.path.getsize(path)} --bs=4k --ioengine=psync --group_reporting"
        told = shell(f"{base} --norandommap --randrepeat=0 --invalidate=0 --output-format=json {options}")
        job = json.loads(told[told.index("{"):])["jobs"][0]
        side = job["read"] if job["read"]["total_ios"] else job["write"]
        # The time of the job has the last fsync in it.
        seconds = max(side["runtime"], job["job_runtime"], 1) / 1000
        self.note(row, "IO/s", side["total_ios"] / seconds)

    def random(self):
        path, seconds = self.have_large(), 2 if self.quick else 5
        read = f"--rw=randread --readonly --time_based --runtime={seconds}"
        self.peer.cold()
        self.fio("random 4 KiB: read cold", read)
        self.peer.cold()
        self.fio("random 4 KiB: read cold, 2 jobs", f"{read} --numjobs=2")
        shell(f"cat {path} >/dev/null")
        self.fio("random 4 KiB: read warm", read)

    def overwrite(self):
        self.have_large()
        self.peer.cold()
        write = "--rw=randwrite --overwrite=1 --refill_buffers --buffer_compress_percentage=50"
        size = "8M" if self.quick else "32M"
        self.fio("random 4 KiB: overwrite, fsync at the end", f"{write} --io_size={size} --runtime=20 --end_fsync=1")
        self.fio("random 4 KiB: overwrite, fdatasync each", f"{write} --io_size=8M --runtime=5 --fdatasync=1")

    def small(self):
        count = 2_000 if self.quick else 10_000
        with open(f"{self.corpus}/sources.tar", "rb") as f:
            text = f.read(32 * MIB)
        for clients, row in ((1, ""), (2, ", 2 clients")):
            roots = [f"{self.at}/small{clients}.{n}" for n in range(clients)]
            each = count // clients
            for what, work in (("create", create_small), ("unlink", unlink_small)):
                jobs = [multiprocessing.Process(target=work, args=(root, each, text)) for root in roots]
                self.timed(f"small files: {what}{row}", "files/s", count, lambda: together(jobs))
                if what == "create":
                    self.peer.sync()
                    if clients == 1:
                        self.peer.cold()
                        read = f"find {roots[0]} -type f -print0 | xargs -0 cat >/dev/null"
                        self.timed("small files: read cold", "files/s", count, lambda: shell(read))

    def untar(self):
        shell(f"cat {self.corpus}/sources.tar >/dev/null")
        count = int(shell(f"tar -tf {self.corpus}/sources.tar | wc -l"))

        def extract():
            shell(f"mkdir {self.at}/untar && tar -xf {self.corpus}/sources.tar -C {self.at}/untar")
            self.peer.sync()

        self.timed("untar, sync", "files/s", count, extract)
        self.timed("rm -r", "files/s", count, lambda: shell(f"rm -r {self.at}/untar"))

    def git(self):
        environment = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_COUNT="1")
        environment |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        read_all(f"{self.corpus}/repo.git")
        clone = f"git clone -q --no-local {self.corpus}/repo.git {self.at}/clone"
        self.timed("git: clone", "1/s", 1, lambda: shell(clone, env=environment))
        status = f"git -C {self.at}/clone status --porcelain"
        shell(status, env=environment)
        self.timed("git: status warm", "1/s", 1, lambda: shell(status, env=environment))
        shell(f"rm -rf {self.at}/clone")

    def compile(self):
        self.copy("c")
        build = "find common compress decompress -name '*.c' | sort | xargs -P2 -I{} gcc -O0 -DZSTD_DISABLE_ASM -c {} -o {}.o"
        self.timed("compile", "1/s", 1, lambda: shell(build, cwd=f"{self.at}/c"))

    def sqlite(self):
        path, count = f"{self.at}/db", 30 if self.quick else 100
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("pragma synchronous=full")
        db.execute("create table t (id integer primary key, bytes blob)")
        db.execute("begin")
        db.executemany("insert into t values (?, ?)", ((n, os.urandom(400)) for n in range(20_000)))
        db.execute("commit")
        for mode, row in (("delete", "rollback journal"), ("wal", "write-ahead log")):
            if db.execute(f"pragma journal_mode={mode}").fetchone()[0] != mode:
                raise RuntimeError(f"no journal mode {mode}")

            def transactions():
                for _ in range(count):
                    db.execute("insert into t (bytes) values (?)", (os.urandom(300),))

            self.timed(f"sqlite: transactions, {row}", "1/s", count, transactions)
        if db.execute("pragma integrity_check").fetchone()[0] != "ok":
            raise RuntimeError("the database is damaged")
        db.close()

    def packed(self):
        size = read_all(f"{self.corpus}/packed")

        def copy():
            self.copy("packed")
            self.peer.sync()

        self.timed("compressed files: write, sync", "MiB/s", size / MIB, copy)
        self.peer.cold()
        read = f"find {self.at}/packed -type f -print0 | xargs -0 cat >/dev/null"
        self.timed("compressed files: read cold", "MiB/s", size / MIB, lambda: shell(read))


WORKLOADS = ["large", "tree", "find", "random", "overwrite", "small", "untar", "git", "compile", "sqlite", "packed"]


def read_all(path):
    """Reads a tree into the page cache, so that reading it is not what is timed; its bytes."""
    return int(shell(f"find {path} -type f -print0 | xargs -0 cat | wc -c"))


def together(jobs):
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError("a client has failed")


def small_names(root, count):
    return [f"{root}/{n % 50}/{n}" for n in range(count)]


def create_small(root, count, text):
    os.mkdir(root)
    for n in range(50):
        os.mkdir(f"{root}/{n}")
    for n, path in enumerate(small_names(root, count)):
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        at = n * 4096 % (len(text) - 4096)
        os.write(fd, text[at : at + 4096])
        os.close(fd)


def unlink_small(root, count, _text):
    for path in small_names(root, count):
        os.unlink(path)


# ---- report --------------------------------------------------------------------------------------


def ratio(figures, row, one, other):
    """The median of two filesystems' ratios within each round."""
    pairs = zip(figures.get((row, one), []), figures.get((row, other), []))
    ratios = [a / b for a, b in pairs if b]
    return statistics.median(ratios) if ratios else None


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def table(figures, units, peers):
    """The rows in the order in which they came; how many goals are missed."""
    lines = ["| workload | unit | " + " | ".join(peers) + " | goal | measured |", "| --- | --- |" + " ---: |" * len(peers) + " --- | --- |"]
    missed = 0
    for row, unit in units.items():
        cells = []
        for peer in peers:
            values = figures.get((row, peer))
            cells.append(number(statistics.median(values)) if values else "–")
        goals, told = [], []
        for other, factor in GOALS.get(row, []):
            measured = ratio(figures, row, "mmhfs", other)
            if measured is None:
                continue
            goals.append(f"{factor:.2g} × {other}")
            told.append(f"{measured:.2f}" if measured >= factor else f"**{measured:.2f}**")
            missed += measured < factor
        lines.append(f"| {row} | {unit} | {' | '.join(cells)} | {', '.join(goals)} | {', '.join(told)} |")
    return lines, missed


def plot(figures, units, path):
    """For each row that has a goal: mmhfs as a multiple of the goal, on a scale of powers of two."""
    bars = []
    for row in units:
        for other, factor in GOALS.get(row, []):
            measured = ratio(figures, row, "mmhfs", other)
            if measured:
                bars.append((f"{row}, {factor:.2g} × {other}", measured / factor))
    left, width, step = 360, 760, 20
    height = 40 + step * len(bars)

    def x(share):
        return left + (width - left - 50) * (max(min(share, 8), 1 / 8) ** 0.5) / 8**0.5

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="8" y="18">mmhfs as a multiple of each goal (root scale); the line is the goal</text>',
    ]
    for n, (name, share) in enumerate(bars):
        y, colour = 30 + step * n, "#1b6ca8" if share >= 1 else "#c0392b"
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{name.replace("<", "&lt;")}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{x(share) - left:.1f}" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{x(share) + 4:.1f}" y="{y + 12}">{share:.2f}</text>')
    parts.append(f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="26" y2="{height - 8}" stroke="black"/>')
    parts.append("</svg>")
    with open(path, "w") as f:
        f.write("\n".join(parts) + "\n")


def main():
    mmhfs, work, corpus, out = sys.argv[1:5]
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--peers", default="mmhfs,ext4,btrfs,bindfs,gocryptfs")
    parser.add_argument("workload", nargs="*", default=WORKLOADS)
    told = parser.parse_args(sys.argv[5:])
    for name in set(told.workload) - set(WORKLOADS):
        parser.error(f"no workload {name}; there are: {' '.join(WORKLOADS)}")
    rounds, peers = told.rounds or (1 if told.quick else 5), told.peers.split(",")
    figures, units, failures = {}, {}, []
    disk = Disk(work, "8G" if told.quick else "20G")
    with open(f"{out}/results.jsonl", "a") as log:
        for turn in range(rounds):
            for name in peers:
                peer = PEERS[name](work, disk, mmhfs)

                def note(row, unit, value):
                    figures.setdefault((row, name), []).append(value)
                    units[row] = unit
                    log.write(json.dumps({"round": turn, "peer": name, "row": row, "unit": unit, "value": value}) + "\n")
                    log.flush()
                    print(f"{turn + 1} {name:10} {row:44} {number(value):>10} {unit}", flush=True)

                peer.make()
                try:
                    bench = Bench(peer, corpus, told.quick, note)
                    for workload in told.workload:
                        try:
                            getattr(bench, workload)()
                        except RuntimeError as error:
                            failures.append(f"{name}, {workload}: {error}")
                            print(failures[-1], flush=True)
                finally:
                    peer.remove()
    disk.close()
    lines, missed = table(figures, units, peers)
    with open(f"{out}/bench.md", "w") as f:
        f.write("\n".join(lines) + "\n")
    plot(figures, units, f"{out}/bench.svg")
    print("\n".join(["", *lines]))
    print(f"bench: {rounds} rounds, {missed} goals missed, {len(failures)} workloads failed")
    sys.exit(1 if failures else 0)


main()
