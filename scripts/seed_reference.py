#!/usr/bin/env python3
"""Reference implementation of docs/seed.md, written from that page alone and for clarity, not speed.

    seed_reference.py DIR                 prints the seed and the content digest of a directory
    seed_reference.py --vectors FILE      checks the test vectors of tests/seed/vectors.txt
    seed_reference.py --fill FILE         computes their expected values anew and rewrites the file

Needs Python 3.9 and the package `blake3` from PyPI. Shares no code with the program.
"""

import os
import stat
import struct
import sys

from blake3 import blake3

LEAF = 65536


def H(what, data):
    return blake3(data, derive_key_context="mmhfs 2026-11 v1 seed " + what).digest()


# ---- files -------------------------------------------------------------------------------------

ZERO = [None]


def zero_tree(level):
    while len(ZERO) <= level:
        last = len(ZERO) - 1
        ZERO.append(H("inner", ZERO[last] * 2))
    return ZERO[level]


ZERO[0] = H("leaf", bytes(LEAF))


def tree(read, first, leaves, length):
    """Digest of `leaves` leaves from leaf number `first`; read(off, len) gives bytes, or None for a hole."""
    off = first * LEAF
    end = min(off + leaves * LEAF, length)
    if leaves == 1:
        data = read(off, end - off)
        return H("leaf", bytes(end - off) if data is None else data)
    whole = end - off == leaves * LEAF
    if whole and leaves & (leaves - 1) == 0 and read(off, end - off, holes=True) is None:
        return zero_tree(leaves.bit_length() - 1)
    k = 1 << ((leaves - 1).bit_length() - 1)
    return H("inner", tree(read, first, k, length) + tree(read, first + k, leaves - k, length))


def file_tree(read, length):
    return tree(read, 0, max(1, (length + LEAF - 1) // LEAF), length)


def file_content(read, length):
    return H("file", struct.pack("<Q", length) + file_tree(read, length))


def read_fd(fd):
    def read(off, size, holes=False):
        if holes:
            try:
                return None if os.lseek(fd, off, os.SEEK_DATA) >= off + size else b""
            except OSError:  # ENXIO: nothing but a hole
                return None
        data = b""
        while len(data) < size:
            more = os.pread(fd, size - len(data), off + len(data))
            if not more:
                raise EOFError("the file shrank")
            data += more
        return data

    return read


def read_recipe(recipe):
    """zero: a hole; count: byte i is i mod 251; hex:XX…: exactly these bytes."""

    def read(off, size, holes=False):
        if recipe == "zero":
            return None
        if holes:
            return b""
        if recipe == "count":
            start = off % 251
            return (bytes(range(251)) * (size // 251 + 2))[start : start + size]
        return bytes.fromhex(recipe[4:])[off : off + size]

    return read


# ---- nodes -------------------------------------------------------------------------------------


class Node:
    """Type byte, attributes, content; children for directories; `file` identifies hard links."""

    def __init__(self, kind, mode=0o644, uid=0, gid=0, mtime=(0, 0), rdev=(0, 0), xattrs=(), file=None):
        self.kind, self.mode, self.uid, self.gid = kind, mode, uid, gid
        self.mtime, self.rdev, self.xattrs, self.file = mtime, rdev, dict(xattrs), file
        self.children = {}
        self.content = None


def counts(name):
    if name in (b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability"):
        return True
    return name.startswith(b"user.") and not name.startswith(b"user.mmhfs.")


def attrs(node):
    mode = 0o777 if node.kind == 4 else node.mode & 0o7777
    rdev = node.rdev if node.kind in (7, 8) else (0, 0)
    xattrs = sorted((n, v) for n, v in node.xattrs.items() if counts(n))
    out = struct.pack("<IIIqIIII", mode, node.uid, node.gid, *node.mtime, *rdev, len(xattrs))
    for name, value in xattrs:
        out += struct.pack("<H", len(name)) + name + struct.pack("<I", len(value)) + value
    return out


def trie(entries, prefix, depth=0):
    """entries: (name, type byte, digest)."""
    if len(entries) <= 256:
        data = b"".join(struct.pack("<H", len(n)) + n + bytes([k]) + d for n, k, d in sorted(entries))
        return H(prefix + "dir leaf", data)
    sides = ([], [])
    for entry in entries:
        hashed = int.from_bytes(blake3(entry[0]).digest(), "big")
        sides[(hashed >> (255 - depth)) & 1].append(entry)
    return H(prefix + "dir inner", trie(sides[0], prefix, depth + 1) + trie(sides[1], prefix, depth + 1))


def link_groups(root):
    files = {}

    def walk(node, path):
        for name, child in node.children.items():
            if child.kind == 3:
                walk(child, path + (name,))
            elif child.file is not None:
                files.setdefault(child.file, []).append(path + (name,))

    walk(root, ())
    at = {}
    for paths in files.values():
        if len(paths) >= 2:
            parents = [path[:-1] for path in paths]
            common = 0
            while all(len(p) > common and p[common] == parents[0][common] for p in parents):
                common += 1
            group = sorted(b"/".join(path[common:]) for path in paths)
            at.setdefault(parents[0][:common], []).append(group)
    return at


def encode_groups(groups):
    out = struct.pack("<I", len(groups))
    for group in sorted(groups, key=lambda group: group[0]):
        out += struct.pack("<I", len(group))
        for path in group:
            out += struct.pack("<I", len(path)) + path
    return out


def digests(node, path, groups):
    """Content and full digest."""
    if node.kind != 3:
        return node.content, H("full node", node.content + attrs(node))
    done = [(n, c.kind, *digests(c, path + (n,), groups)) for n, c in node.children.items()]
    count = struct.pack("<Q", len(done))
    content = H("dir", count + trie([(n, k, c) for n, k, c, _ in done], ""))
    full = trie([(n, k, f) for n, k, _, f in done], "full ") + count
    if path:
        full += attrs(node)
    full += H("link groups", encode_groups(groups.get(path, [])))
    return content, H("full dir", full)


def seed_of(root):
    root.children.pop(b".mmhfs", None)
    content, full = digests(root, (), link_groups(root))
    return content, full, H("root", content + full)


# ---- text --------------------------------------------------------------------------------------

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def polymod(values):
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> i & 1:
                check ^= term
    return check


def bech32m(hrp, data):
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = (8 * len(data) + 4) // 5
    values = [bits >> 5 * (count - 1 - i) & 31 for i in range(count)]
    expanded = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    check = polymod(expanded + values + [0] * 6) ^ 0x2BC830A3
    values += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return hrp + "1" + "".join(CHARSET[v] for v in values)


def letters(data):
    return "".join("ACGT"[byte >> shift & 3] for byte in data[:16] for shift in (6, 4, 2, 0))


# ---- a directory on disk -----------------------------------------------------------------------


def kind_of(mode):
    if stat.S_ISREG(mode):
        return 2 if mode & 0o100 else 1
    for kind, test in ((3, stat.S_ISDIR), (4, stat.S_ISLNK), (5, stat.S_ISFIFO), (6, stat.S_ISSOCK),
                       (7, stat.S_ISCHR), (8, stat.S_ISBLK)):
        if test(mode):
            return kind
    raise ValueError("unknown type")


def from_disk(path, top=True):
    facts = os.stat(path) if top else os.lstat(path)
    names = [os.fsencode(n) for n in os.listxattr(path, follow_symlinks=top)]
    node = Node(
        kind_of(facts.st_mode), facts.st_mode, facts.st_uid, facts.st_gid,
        divmod(facts.st_mtime_ns, 10**9), (os.major(facts.st_rdev), os.minor(facts.st_rdev)),
        {n: os.getxattr(path, n, follow_symlinks=top) for n in names if counts(n)},
        (facts.st_dev, facts.st_ino) if facts.st_nlink > 1 else None,
    )
    if node.kind == 3:
        for name in os.listdir(path):
            # What is below it need not be readable.
            if not (top and name == b".mmhfs"):
                node.children[name] = from_disk(os.path.join(path, name), False)
    elif node.kind in (1, 2):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            node.content = file_content(read_fd(fd), facts.st_size)
        finally:
            os.close(fd)
    elif node.kind == 4:
        node.content = H("symlink", os.readlink(path))
    else:
        node.content = H("special", bytes([node.kind]))
    return node


# ---- test vectors ------------------------------------------------------------------------------


def percent(text):
    raw, out, i = text.encode(), b"", 0
    while i < len(raw):
        if raw[i : i + 1] == b"%":
            out, i = out + bytes.fromhex(raw[i + 1 : i + 3].decode()), i + 3
        else:
            out, i = out + raw[i : i + 1], i + 1
    return out


KINDS = {"file": 1, "dir": 3, "symlink": 4, "fifo": 5, "socket": 6, "char": 7, "block": 8}


class Tree:
    def __init__(self):
        self.root, self.files = Node(3), 0

    def place(self, path, node):
        *parents, name = percent(path).split(b"/")
        at = self.root
        for parent in parents:
            at = at.children[parent]
        at.children[name] = node

    def find(self, path):
        at = self.root
        for name in percent(path).split(b"/"):
            at = at.children[name]
        return at

    def add(self, words):
        kind, mode, uid, gid, mtime, path, *rest = words
        mode, (secs, nanos) = int(mode, 8), mtime.split(".")
        self.files += 1
        node = Node(KINDS[kind], mode, int(uid), int(gid), (int(secs), int(nanos)), file=self.files)
        if kind == "file":
            node.kind = 2 if mode & 0o100 else 1
        length, recipe = 0, "hex:"
        for option in rest:
            key, value = option.split("=", 1)
            if key == "data":
                recipe = value
                length = (len(value) - 4) // 2 if value.startswith("hex:") else length
            elif key == "len":
                length = int(value)
            elif key == "target":
                node.content = H("symlink", percent(value))
            elif key == "rdev":
                node.rdev = tuple(int(n) for n in value.split(":"))
            elif key == "xattr":
                name, data = value.split(":")
                node.xattrs[percent(name)] = bytes.fromhex(data)
            else:
                raise ValueError(option)
        if kind == "file":
            node.content = file_content(read_recipe(recipe), length)
        elif kind not in ("dir", "symlink"):
            node.content = H("special", bytes([node.kind]))
        self.place(path, node)

    def expect(self):
        content, full, seed = seed_of(self.root)
        return ["expect", bech32m("mmc", content), full.hex(), bech32m("mmh", seed), letters(seed)]


def vectors(path, fill):
    out, wrong, now = [], 0, None
    for number, line in enumerate(open(path, encoding="ascii"), 1):
        words = line.split()
        got = words
        if not words or words[0].startswith("#"):
            out.append(line)
            continue
        if words[0] == "digest":
            data = b"" if words[2] == "-" else bytes.fromhex(words[2])
            got = words[:3] + [H(words[1].replace("_", " "), data).hex()]
        elif words[0] == "bytes":
            read, length = read_recipe(words[2]), int(words[1])
            got = words[:3] + [file_tree(read, length).hex(), file_content(read, length).hex()]
        elif words[0] == "tree":
            now = Tree()
        elif words[0] == "link":
            now.place(words[1], now.find(words[2]))
        elif words[0] == "many":
            for at in range(int(words[2])):
                now.add(["file", "644", "0", "0", "0.0", words[1] + str(at)])
        elif words[0] == "expect":
            got = now.expect()
        else:
            now.add(words)
        if got != words and not fill:
            wrong += 1
            print(f"{path}:{number}: have {' '.join(words)}\n    want {' '.join(got)}", file=sys.stderr)
        out.append(" ".join(got) + "\n")
    if fill:
        open(path, "w", encoding="ascii").writelines(out)
    return wrong


def main(args):
    if len(args) == 2 and args[0] in ("--vectors", "--fill"):
        return 1 if vectors(args[1], args[0] == "--fill") else 0
    if len(args) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    content, _, seed = seed_of(from_disk(os.fsencode(args[0])))
    print(bech32m("mmh", seed))
    print(bech32m("mmc", content))
    return 0


if __name__ == "__main__":
    sys.setrecursionlimit(10000)
    sys.exit(main(sys.argv[1:]))
