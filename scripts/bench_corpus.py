"""Gathers what scripts/bench reads, from the sources that a build has fetched and from /usr: bench_corpus.py TO REGISTRY."""
import os
import shutil
import subprocess
import sys

TO, REGISTRY = sys.argv[1], sys.argv[2]
MIB = 1 << 20
TREE = {"text": (20_000, 330 * MIB), "binary": (6_000, 420 * MIB)}


def walk(*roots):
    """Regular files below some directories, in an order that does not depend on the disk."""
    for root in roots:
        for directory, names, files in os.walk(root):
            names.sort()
            for name in sorted(files):
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def gather(name, paths, count, size):
    """Copies files into a tree until there are so many, or so many bytes."""
    for path in paths:
        length = os.path.getsize(path)
        if count == 0:
            break
        if length > size:
            continue
        to = f"{TO}/{name}{path}"
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copyfile(path, to)
        count, size = count - 1, size - length


def run(command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def make_repository():
    work, identity = f"{TO}/work", dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null")
    for word in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{word}_NAME": "bench", f"GIT_{word}_EMAIL": "bench@localhost", f"GIT_{word}_DATE": "2024-01-01T00:00:00Z"}
    run(["git", "init", "-q", work], env=identity)
    crates = sorted(os.listdir(f"{TO}/sources"))
    for n in range(5):
        for crate in crates[n::5]:
            shutil.copytree(f"{TO}/sources/{crate}", f"{work}/{crate}")
        run(["git", "-C", work, "add", "-A", "-f"], env=identity)
        run(["git", "-C", work, "commit", "-q", "-m", f"part {n}"], env=identity)
    run(["git", "clone", "-q", "--bare", work, f"{TO}/repo.git"], env=identity)
    shutil.rmtree(work)


def main():
    crates = f"{REGISTRY}/src"
    gather("tree/text", walk(crates), *TREE["text"])
    gather("tree/binary", walk("/usr/bin", "/usr/lib"), *TREE["binary"])
    # An archive of them, cut to length: the large file.
    with open(f"{TO}/large", "wb") as large:
        tar = subprocess.Popen(["tar", "-cf", "-", "--sort=name", "-C", TO, "tree"], stdout=subprocess.PIPE)
        shutil.copyfileobj(tar.stdout, large)
        tar.wait()
        large.truncate(min(large.tell(), 512 * MIB))
    # Small files of one kind: sources of a hundred crates.
    some = sorted(os.path.join(root, name) for root in os.scandir(crates) for name in os.listdir(root))[:100]
    for crate in some:
        shutil.copytree(crate, f"{TO}/sources/{os.path.basename(crate)}", symlinks=True)
    run(["tar", "-cf", f"{TO}/sources.tar", "--sort=name", "-C", f"{TO}/sources", "."])
    make_repository()
    # What is compressed already.
    gather("packed", walk(f"{REGISTRY}/cache"), 400, 120 * MIB)
    # A library in C, to be compiled.
    zstd = [path for path in sorted(walk(crates)) if path.endswith("/zstd/lib/zstd.h")]
    shutil.copytree(os.path.dirname(zstd[-1]), f"{TO}/c")


main()
