"""Writers on a mount, what has been promised to them, and whether what is there after a crash keeps it.

Each writer has a directory of its own and is one thread, so what happens to names in it is a sequence of events. An
event is issued, then completed (the call has returned), and confirmed once something that makes it durable
has returned success: an fsync, `mmhfs sync` or a snapshot. After a crash the names must be those after some number
of events, at least those that are confirmed, at most those that are issued. Bytes are counted likewise: issued, written
(the call has returned; the kernel may hold them), received (the file was closed or synced: the program has them), durable.

A confirmation of one writer counts for all: an fsync makes durable what had been received before the last change
of its file, whoever did it.
"""
import errno
import hashlib
import os
import random
import threading

PAGE = 4096
BLOCKS = 12
KEPT_MAX = 24
FOLDERS = ("a", "b")


def block(ident, at, version):
    return hashlib.shake_128(f"{ident} {at} {version}".encode()).digest(PAGE)


class File:
    """What was written to a file, by appending. `data` is what was issued; the rest are lengths of it."""

    def __init__(self, ident, data):
        self.ident, self.data = ident, data
        self.written = self.received = self.durable = 0

    def mark(self, written):
        return self.written if written else self.received

    def confirm(self, mark):
        self.durable = max(self.durable, mark)

    def settled(self):
        return self.durable >= len(self.data)

    def view(self):
        return self.data, self.durable

    def widen(self, view):
        return self.data, view[1]

    def live(self):
        return self.data, self.received

    @staticmethod
    def problem(view, got):
        data, durable = view
        if len(got) > len(data):
            return f"has {len(got)} bytes, more than the {len(data)} that were written"
        if got[:durable] != data[:durable]:
            at = next((i for i, (x, y) in enumerate(zip(got, data[:durable])) if x != y), len(got))
            return f"differs at byte {at} of the {durable} that were confirmed; it has {len(got)}"
        # Bytes that are not confirmed may be missing at the end, or page by page, or be zeros at the end of a page.
        for at in range(durable // PAGE * PAGE, len(got), PAGE):
            page, want = got[at : at + PAGE], data[at : at + PAGE]
            if not page.startswith(want) and not want.startswith(page.rstrip(b"\0")):
                return f"has bytes in the page at {at} that nobody wrote"
        return None

    def adopt(self, got):
        self.data = got
        self.written = self.received = self.durable = len(got)


class Blocks:
    """A file whose blocks are written again and again, in their places; each has a version."""

    def __init__(self, ident):
        self.ident = ident
        self.issued, self.written, self.received, self.durable = ([0] * BLOCKS for _ in range(4))

    def mark(self, written):
        return list(self.written if written else self.received)

    def confirm(self, mark):
        self.durable = [max(pair) for pair in zip(self.durable, mark)]

    def settled(self):
        return self.durable == self.issued

    def view(self):
        return self.ident, list(self.durable), list(self.issued)

    def widen(self, view):
        return self.ident, view[1], list(self.issued)

    def live(self):
        return self.ident, list(self.received), list(self.issued)

    @staticmethod
    def versions(view, got):
        ident, durable, issued = view
        for at in range(BLOCKS):
            bytes_ = got[at * PAGE : (at + 1) * PAGE]
            tries = range(issued[at], durable[at] - 1, -1)
            yield next((v for v in tries if block(ident, at, v) == bytes_), None)

    @staticmethod
    def problem(view, got):
        if len(got) != BLOCKS * PAGE:
            return f"has {len(got)} bytes instead of {BLOCKS * PAGE}"
        for at, version in enumerate(Blocks.versions(view, got)):
            if version is None:
                return f"block {at} is none of its versions {view[1][at]}..{view[2][at]}"
        return None

    def adopt(self, got):
        self.durable = list(self.versions((self.ident, self.durable, self.issued), got))
        # Versions that were lost are not used again.
        self.written, self.received = list(self.durable), list(self.durable)


def apply(names, event):
    kind, path, other = event
    if kind == "create":
        names[path] = other
    elif kind == "unlink":
        del names[path]
    elif kind == "rename":
        names[other] = names.pop(path)
    else:
        names[other] = names[path]


class World:
    """All writers of a mount, and its snapshots."""

    def __init__(self, store, seed, count, tolerated=()):
        self.store, self.tolerated = store, frozenset(tolerated)
        self.lock = threading.Lock()
        # Told of each confirmation.
        self.confirmed = threading.Condition(self.lock)
        self.stop = threading.Event()
        self.writers = [Writer(self, number, f"{seed}:{number}") for number in range(count)]
        # Names of confirmed snapshots with their seeds; of those that may be there; of those that are gone.
        self.snapshots, self.unsure, self.gone = {}, set(), set()
        self.snapshot_count = 0
        self.confirmations = self.failures = 0
        self.strange = []

    def mark(self, written=False):
        """What counts if a call that is made now makes everything durable."""
        with self.lock:
            return [
                (writer, writer.completed, [(file, file.mark(written)) for file in writer.unsettled])
                for writer in self.writers
            ]

    def confirm(self, mark):
        with self.lock:
            self.confirmations += 1
            for writer, completed, files in mark:
                writer.confirmed = max(writer.confirmed, completed)
                for file, token in files:
                    file.confirm(token)
                    if file.settled():
                        writer.unsettled.discard(file)
            self.confirmed.notify_all()

    def failed(self, error, what):
        """Whether a call may fail like this; the process that died is told apart by None."""
        if error.errno in self.tolerated:
            self.failures += 1
            return True
        if self.tolerated and error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            self.strange.append(f"{what}: {error}")
        return False

    def start(self, steps):
        """Lets all writers make so many steps, each in a thread of its own."""
        self.stop.clear()
        threads = [threading.Thread(target=writer.run, args=(steps,), daemon=True) for writer in self.writers]
        for thread in threads:
            thread.start()
        return threads

    def sure_snapshots(self):
        """The confirmed snapshots that nobody has begun to delete, and those that are certainly not there."""
        return {name: seed for name, seed in self.snapshots.items() if name not in self.unsure}, set(self.gone)

    def adopt_snapshots(self, listed):
        """What was found after a crash: what was under way has happened or never will."""
        self.gone = (self.gone | self.snapshots.keys() | self.unsure) - listed.keys()
        self.snapshots = listed
        self.unsure.clear()

    def prepare(self):
        """Makes the writers' directories, durably."""
        for writer in self.writers:
            writer.prepare()
        mark = self.mark(written=True)
        self.store.must("sync", self.store.point)
        self.confirm(mark)

    def view(self):
        with self.lock:
            return [writer.view() for writer in self.writers]

    def widen(self, views):
        """Adds what has been issued since: what a copy that took a while may have as well."""
        with self.lock:
            for writer, view in zip(self.writers, views):
                writer.widen(view)


class Writer:
    def __init__(self, world, number, seed):
        self.world, self.number, self.dice = world, number, random.Random(seed)
        # Names before the events, and after those that are completed.
        self.base, self.names = {}, {}
        self.events, self.start = [], 0
        self.completed = self.confirmed = 0
        self.files, self.unsettled = {}, set()
        self.made = 0
        self.journal = None

    # What the model knows.

    def view(self):
        done = self.confirmed - self.start
        for event in self.events[:done]:
            apply(self.base, event)
        self.events = self.events[done:]
        self.start = self.confirmed
        wanted = set(self.base.values()) | {event[2] for event in self.events if event[0] == "create"}
        self.files = {ident: file for ident, file in self.files.items() if ident in wanted}
        return {
            "writer": self,
            "base": dict(self.base),
            "events": list(self.events),
            "least": 0,
            "start": self.start,
            "files": {ident: file.view() for ident, file in self.files.items()},
        }

    def widen(self, view):
        view["events"] += self.events[view["start"] + len(view["events"]) - self.start :]
        for ident, file in self.files.items():
            known = view["files"].get(ident)
            view["files"][ident] = file.widen(known) if known else (file.data, 0)

    def adopt(self, names, contents):
        """What was found after a crash is what there is from now on."""
        self.base, self.names = dict(names), dict(names)
        self.events, self.start = [], 0
        self.completed = self.confirmed = 0
        self.unsettled.clear()
        self.files = {ident: self.files[ident] for ident in set(names.values())}
        for ident, file in self.files.items():
            file.adopt(contents[ident])

    # What the writer does.

    def folder(self, path=""):
        return f"{self.world.store.point}/w{self.number}/{path}"

    def prepare(self):
        for folder in FOLDERS:
            os.makedirs(self.folder(folder))
        mark = self.world.mark()
        self.put("a/journal", File(self.ident(), b"journal\n"), 1, mark)
        blocks = Blocks(self.ident())
        fd = self.create("a/blocks", blocks)
        os.write(fd, b"".join(block(blocks.ident, at, 0) for at in range(BLOCKS)))
        os.close(fd)
        self.unsettled.discard(blocks)

    def ident(self):
        self.made += 1
        return f"{self.number}.{self.made}"

    def change(self, event, call):
        with self.world.lock:
            self.events.append(event)
        try:
            result = call()
        except OSError as error:
            # What fails has not happened; of a process that has died nobody knows.
            if self.world.failed(error, event):
                with self.world.lock:
                    self.events.pop()
            raise
        with self.world.lock:
            apply(self.names, event)
            self.completed += 1
        return result

    def create(self, path, file):
        self.files[file.ident] = file
        with self.world.lock:
            self.unsettled.add(file)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        return self.change(("create", path, file.ident), lambda: os.open(self.folder(path), flags, 0o644))

    def fsync(self, fd, mark, file=None):
        """Syncs, once more if that fails: a success after a failure must mean what it says."""
        with self.world.lock:
            # Nothing of this writer is younger than the last change of what is synced.
            completed = self.completed
            own = file.mark(True) if file else None
        for last in (False, True):
            try:
                os.fsync(fd)
            except OSError as error:
                if not self.world.failed(error, "fsync") or last:
                    raise
            else:
                break
        self.world.confirm(mark)
        with self.world.lock:
            self.confirmed = max(self.confirmed, completed)
            if file:
                file.received = own
                file.confirm(own)

    def fsync_folder(self, path, mark):
        fd = os.open(self.folder(os.path.dirname(path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.fsync(fd, mark)
        finally:
            os.close(fd)

    def close(self, fd, file):
        os.close(fd)
        with self.world.lock:
            file.received = file.mark(True)

    def put(self, path, file, sync_chance, mark):
        """Makes a file under a passing name, which it then changes for its own; perhaps one that another had."""
        temporary = f"{path[0]}/new"
        if temporary in self.names:
            self.change(("unlink", temporary, None), lambda: os.unlink(self.folder(temporary)))
        sync = self.dice.random() < sync_chance
        fd = self.create(temporary, file)
        try:
            for at in range(0, len(file.data), 65536):
                part = file.data[at : at + 65536]
                if os.write(fd, part) != len(part):
                    raise OSError(errno.EIO, "a short write")
                file.written += len(part)
            if sync:
                self.fsync(fd, mark, file)
        except OSError:
            os.close(fd)
            raise
        self.close(fd, file)
        mark = self.world.mark()
        self.change(
            ("rename", temporary, path), lambda: os.rename(self.folder(temporary), self.folder(path))
        )
        if sync and self.dice.random() < 0.7:
            self.fsync_folder(path, mark)

    def run(self, steps):
        try:
            self.journal = os.open(self.folder("a/journal"), os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            self.world.failed(error, "open")
            return
        kinds = (self.small, self.append, self.rewrite, self.bulk, self.move, self.link, self.replace)
        for _ in range(steps):
            if self.world.stop.is_set():
                break
            try:
                self.trim()
                self.dice.choices(kinds, (6, 6, 5, 1, 2, 2, 2))[0]()
            except OSError as error:
                if error.errno not in self.world.tolerated:
                    self.world.failed(error, "a step")
                    break
        try:
            os.close(self.journal)
            with self.world.lock:
                file = self.files[self.names["a/journal"]]
                file.received = file.written
        except OSError as error:
            self.world.failed(error, "close")

    def plain_names(self):
        return sorted(path for path in self.names if path[2:].isdigit())

    def body(self, length):
        if self.dice.random() < 0.2:
            # What other writers have as well.
            return random.Random(self.dice.randrange(20)).randbytes(length)
        if self.dice.random() < 0.3:
            line = f"{self.number} {self.made} {self.dice.random()}\n".encode()
            return (line * (length // len(line) + 1))[:length]
        return self.dice.randbytes(length)

    def new_path(self):
        return f"{self.dice.choice(FOLDERS)}/{self.ident().partition('.')[2]}"

    def small(self):
        length = self.dice.choice((0, 10, 700, 700, 5_000, 5_000, 20_000, 60_000))
        path = self.new_path()
        self.put(path, File(self.ident(), self.body(length)), 0.5, self.world.mark())

    def bulk(self):
        length = self.dice.randrange(1_100_000, 2_200_000)
        path = self.new_path()
        self.put(path, File(self.ident(), self.body(length)), 0.5, self.world.mark())

    def replace(self):
        paths = self.plain_names()
        if paths:
            file = File(self.ident(), self.body(self.dice.choice((10, 3_000, 30_000))))
            self.put(self.dice.choice(paths), file, 0.6, self.world.mark())

    def append(self):
        file = self.files[self.names["a/journal"]]
        mark = self.world.mark()
        record = self.dice.randbytes(self.dice.choice((20, 200, 3_000))).hex().encode()
        with self.world.lock:
            file.data = file.data[: file.written] + record
            self.unsettled.add(file)
        done = os.write(self.journal, record)
        file.written += done
        if done != len(record):
            raise OSError(errno.EIO, "a short write")
        if self.dice.random() < 0.5:
            self.fsync(self.journal, mark, file)

    def rewrite(self):
        file = self.files[self.names["a/blocks"]]
        mark = self.world.mark()
        fd = os.open(self.folder("a/blocks"), os.O_WRONLY)
        try:
            for at in self.dice.sample(range(BLOCKS), self.dice.choice((1, 1, 2, 4))):
                with self.world.lock:
                    file.issued[at] += 1
                    self.unsettled.add(file)
                os.pwrite(fd, block(file.ident, at, file.issued[at]), at * PAGE)
                file.written[at] = file.issued[at]
            if self.dice.random() < 0.6:
                self.fsync(fd, mark, file)
        except OSError:
            os.close(fd)
            raise
        self.close(fd, file)

    def move(self):
        paths = self.plain_names()
        if paths:
            path, to = self.dice.choice(paths), self.new_path()
            mark = self.world.mark()
            self.change(("rename", path, to), lambda: os.rename(self.folder(path), self.folder(to)))
            if self.dice.random() < 0.4:
                self.fsync_folder(to, mark)

    def link(self):
        paths = self.plain_names()
        if paths:
            path, to = self.dice.choice(paths), self.new_path()
            mark = self.world.mark()
            self.change(("link", path, to), lambda: os.link(self.folder(path), self.folder(to)))
            if self.dice.random() < 0.4:
                self.fsync_folder(to, mark)

    def trim(self):
        paths = self.plain_names()
        if len(paths) > KEPT_MAX:
            path = self.dice.choice(paths)
            mark = self.world.mark()
            self.change(("unlink", path, None), lambda: os.unlink(self.folder(path)))
            if self.dice.random() < 0.3:
                self.fsync_folder(path, mark)


def found(root):
    """Paths of a writer's directory with inode number and number of links."""
    there = {}
    for folder in FOLDERS:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                there[f"{folder}/{entry.name}"] = (facts.st_ino, facts.st_nlink)
    return there


def fits(names, there):
    """Whether what is there are these names, leading to as many files in the same way."""
    if names.keys() != there.keys():
        return False
    pairs = {(ident, there[path][0]) for path, ident in names.items()}
    idents = list(names.values())
    return (
        len(pairs) == len(set(idents)) == len({ino for ino, _ in there.values()})
        and all(there[path][1] == idents.count(ident) for path, ident in names.items())
    )


def content_problem(view, ident, got):
    kind = Blocks if isinstance(view["writer"].files.get(ident), Blocks) else File
    return kind.problem(view["files"][ident], got)


def inspect(view, point):
    """Compares a writer's directory with what may be there.

    Gives what is wrong, and if nothing is, the names and contents that are there."""
    writer = view["writer"]
    root = f"{point}/w{writer.number}"
    there = found(root)
    names = dict(view["base"])
    events = view["events"]
    for event in events[: view["least"]]:
        apply(names, event)
    problems, contents = None, {}
    for count in range(view["least"], len(events) + 1):
        if fits(names, there):
            problems = []
            for path, ident in sorted(names.items()):
                if there[path][0] not in contents:
                    with open(f"{root}/{path}", "rb") as f:
                        contents[there[path][0]] = f.read()
                problem = content_problem(view, ident, contents[there[path][0]])
                if problem:
                    problems.append(f"w{writer.number}/{path}: {problem}")
            if not problems:
                return [], names, {ident: contents[there[path][0]] for path, ident in names.items()}
        if count < len(events):
            apply(names, events[count])
    if problems is not None:
        return problems, None, None
    least = dict(view["base"])
    for event in events[: view["least"]]:
        apply(least, event)
    missing = sorted(least.keys() - there.keys())[:5]
    extra = sorted(there.keys() - least.keys())[:5]
    return (
        [
            f"w{writer.number}: its names are those of no moment of {len(events) - view['least'] + 1} that may be; "
            f"compared with the confirmed ones {missing} are missing, {extra} are there"
        ],
        None,
        None,
    )


def survivors(world, views, point, adopt):
    """What is wrong with what is there after a crash. With `adopt` the writers go on from it."""
    problems = []
    for view in views:
        bad, names, contents = inspect(view, point)
        problems += bad
        if adopt and not bad:
            view["writer"].adopt(names, contents)
    return problems


def live_problems(world):
    """What is wrong with the tree as it is served, while nobody writes."""
    problems = []
    for writer in world.writers:
        view = {
            "writer": writer,
            "base": writer.base,
            "events": list(writer.events),
            "least": len(writer.events),
            "files": {ident: file.live() for ident, file in writer.files.items()},
        }
        problems += inspect(view, world.store.point)[0]
    return problems


def snapshot_problems(listed, confirmed, gone):
    """Confirmed snapshots are there with their seeds, deleted ones are not."""
    problems = []
    for name, seed in confirmed.items():
        if listed.get(name) != seed:
            problems.append(f"snapshot {name} was confirmed with {seed} and is {listed.get(name)}")
    for name in gone & listed.keys():
        problems.append(f"snapshot {name} was gone and is back")
    return problems


def snapshots_of(store, target):
    return {each["name"]: each["seed"] for each in store.facts("snapshots", target)}


def verify_problems(store, target, names):
    problems = []
    for name in names:
        done = store.run("verify", target, name)
        if done.returncode:
            problems.append(f"verify {name}: exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return problems


class Commands(threading.Thread):
    """Commands of the program beside the writers: `todo` are their kinds, in order."""

    def __init__(self, world, todo):
        super().__init__(daemon=True)
        self.world, self.todo, self.error = world, list(todo), None
        self.failed = []

    def run(self):
        try:
            for kind in self.todo:
                if self.world.store.ended():
                    return
                getattr(self, kind)()
        except Exception as error:  # reported by the main thread
            self.error = error

    def command(self, *arguments):
        done = self.world.store.run(*arguments)
        if done.returncode:
            self.failed.append((arguments[0], done.returncode, done.stderr.strip()))
        # After the end of the process that served the mount a command opens the store itself.
        return done.stdout if done.returncode == 0 and not self.world.store.ended() else None

    def snapshot(self):
        world = self.world
        world.snapshot_count += 1
        name = f"s{world.snapshot_count}"
        world.unsure.add(name)
        mark = world.mark(written=True)
        done = self.command("snapshot", world.store.point, name)
        if done is not None:
            world.confirm(mark)
            world.snapshots[name] = done.split()[0]
            world.unsure.discard(name)

    def delete(self):
        world = self.world
        sure = sorted(world.snapshots.keys() - world.unsure)
        if sure:
            name = sure[0]
            world.unsure.add(name)
            if self.command("delete-snapshot", world.store.point, name) is not None:
                del world.snapshots[name]
                world.gone.add(name)
                world.unsure.discard(name)

    def sync(self):
        mark = self.world.mark(written=True)
        if self.command("sync", self.world.store.point) is not None:
            self.world.confirm(mark)

    def clean(self):
        self.command("clean", "--max-unused", "0", self.world.store.point)
