"""The trials of scripts/survival: see there."""
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import time

MMHFS, WORK, TRIALS, SEED, OUT = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
SYMBOL = 4096
# One store for each overhead, in percent; the default is the one that the goals are for.
OVERHEADS, DEFAULT = (3, 7, 12, 20), 7
# A short run is no proof of the goals, but shows that they can be met.
GOAL_TRIALS = 100 if TRIALS >= 20 else TRIALS
MIB = 1 << 20


def run(*arguments, check=True, env=None):
    done = subprocess.run([MMHFS, *arguments], capture_output=True, text=True, timeout=600, env={**os.environ, **(env or {})})
    if check and done.returncode:
        sys.exit(f"survival: {arguments}: exit {done.returncode}: {done.stderr}")
    return done


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Group:
    """What a parity file says of itself (docs/format.md, "Parity files")."""

    def __init__(self, path):
        head = read(path)[:4096]
        self.path, self.kind = path, head[10]
        (count,) = struct.unpack_from("<H", head, 12)
        self.symbol, self.source, self.repair, self.blocks = struct.unpack_from("<IIII", head, 40)
        self.members = []
        for n in range(count):
            number, kind = struct.unpack_from("<QB", head, 64 + 64 * n)
            (length,) = struct.unpack_from("<Q", head, 80 + 64 * n)
            self.members.append((f"packs/{number:016x}.{'log' if kind == 1 else 'dat'}", length))
        self.bytes = sum(length for _, length in self.members)
        self.parity = self.blocks * self.repair * self.symbol
        pages = -(-(sum(-(-length // self.symbol) for _, length in self.members) + self.blocks * self.repair) // 508)
        self.symbols_at = 4096 + 4096 * pages


class Store:
    """A store that is filled once and copied for each trial."""

    def __init__(self, overhead, source, pack, small=False):
        self.overhead, self.dir, self.older = overhead, f"{WORK}/store.{overhead}{'s' if small else ''}", {}
        mount = f"{WORK}/mnt"
        os.makedirs(mount, exist_ok=True)
        run("init", "--pack-size", pack, "--parity", str(overhead), self.dir)
        run("mount", self.dir, mount)
        for n, entry in enumerate(source):
            subprocess.run(["cp", "-a", entry, f"{mount}/{n}"], check=True)
            if n % 4 == 3:
                # Packs as they were when they were shorter.
                run("sync", mount)
                for name in os.listdir(f"{self.dir}/packs"):
                    self.older.setdefault(f"packs/{name}", []).append(read(f"{self.dir}/packs/{name}"))
        run("snapshot", mount, "all")
        run("umount", mount)
        run("protect", self.dir)
        groups = [Group(f"{self.dir}/parity/{name}") for name in sorted(os.listdir(f"{self.dir}/parity"))]
        self.groups = [group for group in groups if group.kind == 2]
        self.singles = [group for group in groups if group.kind == 1]
        self.group = max(self.groups or self.singles, key=lambda group: group.bytes)
        self.files = {}
        for base in ("packs", "parity"):
            for name in os.listdir(f"{self.dir}/{base}"):
                self.files[f"{base}/{name}"] = read(f"{self.dir}/{base}/{name}")
        for name in ("super.0", "super.1", "super.2"):
            self.files[name] = read(f"{self.dir}/{name}")
        # Of a pack that a shorter version was seen of.
        self.older = {
            name: copies[0]
            for name, copies in self.older.items()
            if name in dict(self.group.members) and SYMBOL < len(copies[0]) < len(self.files[name])
        }

    def pack_bytes(self):
        return sum(len(data) for name, data in self.files.items() if name.startswith("packs/"))

    def parity_bytes(self):
        return sum(len(data) for name, data in self.files.items() if name.startswith("parity/"))


class Trial:
    """A copy of a store, what was done to it, and how much of that was undone."""

    def __init__(self, store, dice):
        self.store, self.dice, self.dir = store, dice, f"{WORK}/trial"
        shutil.rmtree(self.dir, ignore_errors=True)
        subprocess.run(["cp", "-a", store.dir, self.dir], check=True)
        self.env, self.unreadable = {}, []

    def path(self, name):
        return f"{self.dir}/{name}"

    def write(self, name, off, data):
        with open(self.path(name), "r+b") as f:
            f.seek(off)
            f.write(data)

    def spoil(self, name, off, length):
        """Other bytes, as a disk gives them: zeros, noise or what belongs elsewhere."""
        end = min(off + length, len(self.store.files[name]))
        kind = self.dice.randrange(3)
        data = bytes(end - off) if kind == 0 else self.dice.randbytes(end - off)
        if kind == 2:
            other = self.dice.choice(self.store.group.members)[0]
            data = self.store.files[other][off:end].ljust(end - off, b"\0")
        if data == self.store.files[name][off:end]:
            data = bytes(255 - byte for byte in data)
        self.write(name, off, data)

    def place(self, length):
        """A place of that many bytes in a pack of the group."""
        fitting = [(name, size) for name, size in self.store.group.members if size >= length]
        name, size = self.dice.choice(fitting)
        return name, self.dice.randrange((size - length) // SYMBOL + 1) * SYMBOL

    def wrong(self):
        """Bytes of packs that are not what they were, compared with what is there now."""
        count = 0
        for name, data in self.store.files.items():
            if not name.startswith("packs/"):
                continue
            now = read(self.path(name)) if os.path.exists(self.path(name)) else b""
            if now != data:
                shared = min(len(now), len(data))
                count += abs(len(now) - len(data))
                for at in range(0, shared, SYMBOL):
                    count += SYMBOL if now[at : at + SYMBOL] != data[at : at + SYMBOL] else 0
        return count

    def others_wrong(self):
        """Superblock copies and parity files that are not what they were or have no equivalent."""
        return [n for n in ("super.0", "super.1", "super.2") if not os.path.exists(self.path(n)) or read(self.path(n)) != self.store.files[n]]


# ---- kinds of damage: what they do, and what theory says ------------------------------------------


def bit(trial):
    name, off = trial.place(1)
    byte = off + trial.dice.randrange(SYMBOL)
    byte = min(byte, len(trial.store.files[name]) - 1)
    trial.write(name, byte, bytes([trial.store.files[name][byte] ^ 1 << trial.dice.randrange(8)]))


def sector(trial):
    name, off = trial.place(SYMBOL)
    trial.spoil(name, off, SYMBOL)


def burst(trial):
    name, off = trial.place(min(MIB, max(size for _, size in trial.store.group.members)))
    trial.spoil(name, off, MIB)


def contiguous(share):
    def damage(trial):
        group = trial.store.group
        length = int(group.parity * share) // SYMBOL * SYMBOL
        at = trial.dice.randrange(max(1, (group.bytes - length) // SYMBOL)) * SYMBOL
        for name, size in group.members:
            first, end = max(at, 0), min(at + length, size)
            if first < end:
                trial.spoil(name, first, end - first)
            at -= size
            length = length

    return damage


def scattered(share):
    def damage(trial):
        group = trial.store.group
        places = [(name, n) for name, size in group.members for n in range(-(-size // SYMBOL))]
        parity = f"parity/{os.path.basename(group.path)}"
        places += [(parity, -n - 1) for n in range(group.blocks * group.repair)]
        count = int(group.blocks * group.repair * share)
        for name, n in trial.dice.sample(places, count):
            off = n * SYMBOL if n >= 0 else group.symbols_at + (-n - 1) * SYMBOL
            trial.spoil(name, off, SYMBOL)

    return damage


def lose(count):
    def damage(trial):
        for name, _ in trial.dice.sample(trial.store.group.members, count):
            os.remove(trial.path(name))

    return damage


def index(trial):
    shutil.rmtree(trial.path("index"))


def superblocks(count):
    def damage(trial):
        for name in trial.dice.sample(["super.0", "super.1", "super.2"], count):
            trial.write(name, 0, trial.dice.randbytes(4096))

    return damage


def parity_file(trial):
    os.remove(trial.path(f"parity/{os.path.basename(trial.dice.choice(trial.store.groups + trial.store.singles).path)}"))


def truncated(last):
    def damage(trial):
        names = sorted(name for name in trial.store.files if name.startswith("packs/"))
        name = names[-1] if last else trial.dice.choice(trial.store.group.members)[0]
        size = len(trial.store.files[name])
        # At most what a pack's own parity brings back; a whole pack of a group is another line.
        cut = min(size - 1, 6 * SYMBOL) if last else size // 2
        os.truncate(trial.path(name), size - trial.dice.randrange(1, cut))

    return damage


def swapped(trial):
    length = trial.dice.choice([SYMBOL, 16 * SYMBOL, 64 * SYMBOL])
    one, at = trial.place(length)
    other, to = trial.place(length)
    trial.write(one, at, trial.store.files[other][to : to + length])
    trial.write(other, to, trial.store.files[one][at : at + length])


def older(trial):
    name = trial.dice.choice(sorted(trial.store.older))
    with open(trial.path(name), "wb") as f:
        f.write(trial.store.older[name])


def read_errors(length):
    def damage(trial):
        name, off = trial.place(length or SYMBOL)
        end = off + length if length else 1 << 40
        inode = os.stat(trial.path(name)).st_ino
        trial.env = {"LD_PRELOAD": f"{WORK}/bad_sectors.so", "BAD_SECTORS": f"{inode}:{off if length else 0}:{end}"}
        trial.unreadable.append((name, end - off))

    return damage


def certain(_):
    return 1.0


def never(_):
    return 0.0


def by_rows(share):
    """A run of symbols falls on the blocks in turn: at most one more in some than in others, for each pack that it is in."""

    def theory(group):
        symbols = int(group.parity * share) // SYMBOL
        return float(-(-symbols // group.blocks) <= group.repair)

    return theory


def by_chance(share):
    """Each block has source + repair symbols, of which any `source` suffice: the hypergeometric distribution, for all blocks."""

    def theory(group):
        each, drawn = group.source + group.repair, int(group.blocks * group.repair * share)
        total = each * group.blocks

        def choose(n, k):
            return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

        whole = choose(total, drawn)
        enough = sum(
            math.exp(choose(each, k) + choose(total - each, drawn - k) - whole)
            for k in range(0, min(group.repair, drawn) + 1)
            if drawn - k <= total - each
        )
        return min(1.0, enough) ** group.blocks

    return theory


def by_packs(count):
    def theory(group):
        rows = sorted((-(-size // SYMBOL) for _, size in group.members), reverse=True)
        return float(sum(-(-n // group.blocks) for n in rows[:count]) <= group.repair)

    return theory


def half_a_pack(group):
    rows = max(-(-size // SYMBOL) for _, size in group.members)
    return float(-(-(rows // 2) // group.blocks) <= group.repair)


# name, damage, theory, whether 100 of 100 is a goal at the default overhead
KINDS = [
    ("one bit", bit, certain, True),
    ("one 4 KiB sector", sector, certain, True),
    ("1 MiB burst", burst, certain, True),
    *[(f"contiguous, {p} % of the parity", contiguous(p / 100), by_rows(p / 100), p <= 90) for p in (50, 90, 98, 105)],
    *[(f"random sectors, {p} % of the parity", scattered(p / 100), by_chance(p / 100), p <= 60) for p in (30, 60, 75, 85, 100)],
    ("one pack lost", lose(1), by_packs(1), True),
    ("two packs lost", lose(2), by_packs(2), False),
    ("the index lost", index, certain, True),
    ("one superblock copy", superblocks(1), certain, True),
    ("two superblock copies", superblocks(2), certain, True),
    ("a parity file lost", parity_file, certain, True),
    ("the last pack cut off by up to 24 KiB", truncated(True), certain, True),
    ("a pack cut off by up to half", truncated(False), half_a_pack, False),
    ("two blocks of up to 256 KiB swapped", swapped, certain, True),
    ("a pack replaced by an older version", older, by_packs(1), False),
    ("read errors in a sector", read_errors(SYMBOL), certain, True),
    ("read errors in 1 MiB", read_errors(MIB), certain, True),
    ("read errors in a whole pack", read_errors(0), by_packs(1), True),
]


def trial_of(store, kind, number, seed):
    """Whether all came back, the share of damaged bytes that did, and a complaint if something is not as it must be."""
    _, damage, _, _ = kind
    trial = Trial(store, random.Random(seed))
    damage(trial)
    hurt = trial.wrong() + sum(length for _, length in trial.unreadable)
    done = run("scrub", "--repair", trial.dir, check=False, env=trial.env)
    left, complaint = trial.wrong(), None
    whole = left == 0 and not trial.others_wrong()
    if whole and number < 3:
        for again in (("scrub",), ("verify",), ("check",)):
            arguments = [*again, trial.dir, *(["all"] if again == ("verify",) else [])]
            after = run(*arguments, check=False)
            if after.returncode:
                complaint = f"{arguments}: exit {after.returncode}: {after.stdout[-300:]}{after.stderr[-300:]}"
    if not whole and done.returncode == 0:
        complaint = f"scrub ended with 0 although {left} bytes are wrong"
    if trial.unreadable and whole:
        # The pack must be another file by now, or its sectors would still be unreadable.
        name = trial.unreadable[0][0]
        moved = str(os.stat(trial.path(name)).st_ino) not in trial.env["BAD_SECTORS"].split(":")
        whole = moved
    if trial.unreadable or not hurt:
        # Below an error of reading the bytes are right: what counts is whether they can be read.
        return whole, float(whole), complaint
    return whole, 1 - left / hurt, complaint


def sources():
    """Enough real files for a full group of 4 MiB packs and some more, the same ones on each run."""
    found, size = [], 0
    for base in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib"):
        for name in sorted(os.listdir(base)):
            path = f"{base}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                found.append(path)
                size += os.path.getsize(path)
                if size > 260 * MIB:
                    return found
    return found


def plot(rows, path):
    """Recovered share of trials against the damage in percent of the parity, for each overhead, and the theory."""
    width, height, left, top = 640, 320, 60, 30
    colours = {"contiguous": "#1b6ca8", "random sectors": "#c0392b"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 80}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height + 80}" fill="white"/>',
        f'<text x="{left}" y="18">Stores recovered byte for byte, default overhead; lines: theory, dots: measured</text>',
    ]

    def x(percent):
        return left + (width - left - 20) * percent / 110

    def y(share):
        return top + (height - top - 20) * (1 - share)

    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(share)}" y2="{y(share)}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(share) + 4}" text-anchor="end">{share:.0%}</text>')
    for percent in range(0, 111, 10):
        parts.append(f'<text x="{x(percent)}" y="{height + 2}" text-anchor="middle">{percent}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height + 22}" text-anchor="middle">damage in percent of the parity</text>')
    for n, (kind, colour) in enumerate(colours.items()):
        store = rows["store"]
        theory = by_rows if kind == "contiguous" else by_chance
        line = " ".join(f"{x(p / 2):.1f},{y(theory(p / 200)(store.group)):.1f}" for p in range(0, 221))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for percent, share in rows[kind]:
            parts.append(f'<circle cx="{x(percent)}" cy="{y(share)}" r="4" fill="{colour}"/>')
        parts.append(f'<circle cx="{left + 10}" cy="{height + 40 + 18 * n}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 20}" y="{height + 44 + 18 * n}">{kind}</text>')
    parts.append("</svg>")
    with open(path, "w") as f:
        f.write("\n".join(parts) + "\n")


def main():
    began, files = time.monotonic(), sources()
    stores = [Store(overhead, files, "4M") for overhead in OVERHEADS]
    for store in stores:
        group = store.group
        print(
            f"overhead {store.overhead} %: {store.pack_bytes() / MIB:.1f} MiB of packs, {store.parity_bytes() / MIB:.1f} MiB of parity; the group: "
            f"{len(group.members)} packs, {group.bytes / MIB:.1f} MiB, {group.blocks} blocks of {group.source} + {group.repair} symbols, "
            f"{group.parity / MIB:.2f} MiB of repair symbols"
        )
        if group.kind != 2:
            sys.exit("survival: there is no full group")
    small = Store(DEFAULT, files[:3], "4M", small=True)
    lines, failures = [], []
    head = "| damage | " + " | ".join(f"{store.overhead} %" for store in stores) + " | goal |"
    lines += [head, "| --- |" + " ---: |" * len(stores) + " --- |"]
    rows = {"contiguous": [], "random sectors": []}
    for number, kind in enumerate(KINDS):
        cells = []
        for store in stores:
            goal = kind[3] and store.overhead == DEFAULT
            count = GOAL_TRIALS if goal else TRIALS
            if kind[1] is older and not store.older:
                cells.append("–")
                continue
            whole, parts = 0, 0.0
            for n in range(count):
                seed = f"{SEED} {store.overhead} {number} {n}"
                came, part, complaint = trial_of(store, kind, n, seed)
                whole, parts = whole + came, parts + part
                if complaint:
                    failures.append(f"{kind[0]}, {store.overhead} %, trial {n}: {complaint}")
            theory = kind[2](store.group)
            cells.append(f"{whole} of {count}, {100 * parts / count:.1f} % ({100 * theory:.0f})")
            if goal and whole < count:
                failures.append(f"{kind[0]}: {whole} of {count} at {store.overhead} %")
            if store.overhead == DEFAULT:
                for name in rows:
                    if kind[0].startswith(name):
                        rows[name].append((int(kind[0].split(",")[1].split()[0]), whole / count))
        lines.append(f"| {kind[0]} | {' | '.join(cells)} | {'all' if kind[3] else ''} |")
        print(lines[-1], flush=True)
    print(f"a store of {small.pack_bytes() / MIB:.1f} MiB in {len(small.singles)} packs with parity of their own:")
    for kind in [kind for kind in KINDS if kind[0] in ("one bit", "one 4 KiB sector", "the index lost", "a parity file lost", "read errors in a sector")]:
        results = [trial_of(small, kind, n, f"{SEED} small {kind[0]} {n}") for n in range(TRIALS)]
        whole = sum(result[0] for result in results)
        lines.append(f"| small store: {kind[0]} | | {whole} of {TRIALS} | | | all |")
        print(lines[-1], flush=True)
        failures += [f"small, {kind[0]}: {result[2]}" for result in results if result[2]]
        if whole < TRIALS:
            failures.append(f"small, {kind[0]}: {whole} of {TRIALS}")
    rows["store"] = stores[OVERHEADS.index(DEFAULT)]
    plot(rows, f"{OUT}/survival.svg")
    with open(f"{OUT}/survival.md", "w") as f:
        f.write("\n".join(lines) + "\n")
    print("\n".join(["", *lines]))
    print(f"survival: seed {SEED}, {time.monotonic() - began:.0f} s, {len(failures)} failures")
    for failure in failures[:40]:
        print(failure)
    sys.exit(bool(failures))


main()
