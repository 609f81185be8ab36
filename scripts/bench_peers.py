"""Filesystems that scripts/bench compares, each mounted on one file of one disk."""
import os
import subprocess


def shell(command, **options):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=1800, **options)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {command[:200]}: {done.stderr[-500:]}")
    return done.stdout


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


class Disk:
    """A file with an ext4 on it, attached past the page cache: the stores of those that need another filesystem below."""

    def __init__(self, work, size):
        self.image, self.at = f"{work}/disk.img", f"{work}/disk"
        os.mkdir(self.at)
        shell(f"fallocate -l {size} {self.image} && mkfs.ext4 -q -F {self.image}")
        attach(self.image, self.at, "")

    def close(self):
        shell(f"umount {self.at}")
        os.unlink(self.image)


def attach(image, at, options):
    """Mounts a file past the page cache; when it is unmounted, whoever does it, its device goes."""
    shell(f"device=$(losetup -f --show --direct-io=on {image}) && mount {options} $device {at} && losetup -d $device")


class Peer:
    """A fresh filesystem. `path` is the directory that is measured."""

    def __init__(self, work, disk, mmhfs):
        self.store, self.path, self.mmhfs, self.work = f"{disk.at}/{self.name}", f"{work}/{self.name}", mmhfs, work

    def make(self):
        os.makedirs(self.path)
        os.makedirs(self.store)
        self.format()
        self.mount()

    def remove(self):
        self.umount()
        shell(f"rm -rf {self.store} && rmdir {self.path}")

    def cold(self):
        """Nothing is cached, neither by the kernel nor by a daemon."""
        self.sync()
        self.umount()
        drop_caches()
        self.mount()
        drop_caches()

    def format(self):
        pass

    def umount(self):
        shell(f"umount {self.path}")

    def sync(self):
        shell(f"sync -f {self.path} && sync -f {self.store}")

    def stored(self):
        return int(shell(f"du -s -B1 {self.store}").split()[0])


class Ext4(Peer):
    name = "ext4"

    def mount(self):
        shell(f"mount --bind {self.store} {self.path}")


class Btrfs(Peer):
    name = "btrfs"

    def format(self):
        self.image = f"{self.work}/btrfs.img"
        shell(f"truncate -s 12G {self.image} && mkfs.btrfs -q -f -m single -d single {self.image}")

    def mount(self):
        attach(self.image, self.path, "-o compress=zstd:3,noatime")

    def sync(self):
        shell(f"sync -f {self.path}")

    def stored(self):
        return int(shell(f"du -s -B1 {self.image}").split()[0])

    def remove(self):
        super().remove()
        os.unlink(self.image)


class Bindfs(Peer):
    name = "bindfs"

    def mount(self):
        # What Debian has is built with an old libfuse, which splits writes unless told otherwise.
        shell(f"bindfs -o big_writes {self.store} {self.path}")


class Gocryptfs(Peer):
    name = "gocryptfs"

    def format(self):
        shell(f"gocryptfs -q -init -scryptn 10 -extpass 'echo x' {self.store}")

    def mount(self):
        shell(f"gocryptfs -q -extpass 'echo x' {self.store} {self.path}")

    def umount(self):
        # The daemon ends after the mount is gone.
        pids = shell(f"pgrep -f 'gocryptfs.*{self.path}' || true").split()
        shell(f"umount {self.path}")
        for pid in pids:
            shell(f"timeout 60 tail --pid={pid} -f /dev/null")


class Mmhfs(Peer):
    name, parity = "mmhfs", ""

    def format(self):
        shell(f"{self.mmhfs} -q init {self.parity} {self.store}")

    def mount(self):
        shell(f"{self.mmhfs} -q mount {self.store} {self.path}")

    def umount(self):
        shell(f"{self.mmhfs} -q umount {self.path}")

    def sync(self):
        shell(f"{self.mmhfs} -q sync {self.path} && sync -f {self.store}")

    def daemon(self):
        """The process that serves the mount."""
        with open(f"{self.store}/lock") as f:
            return int(f.read().split("pid ")[1].split()[0])


class MmhfsWithoutParity(Mmhfs):
    name, parity = "mmhfs-p0", "--parity 0"


PEERS = {peer.name: peer for peer in (Mmhfs, MmhfsWithoutParity, Ext4, Btrfs, Bindfs, Gocryptfs)}
