"""The rounds of scripts/kill9: see there."""
import random
import sys
import time

from harness import PATIENCE_S, Store, Violation, report
from model import World, survivors

WRITERS = 3
FOREVER = 1 << 40


def one(store, world, chance, without_index):
    threads = world.start(FOREVER)
    time.sleep(chance.uniform(0.05, 1.5))
    store.kill()
    for thread in threads:
        thread.join(PATIENCE_S)
        if thread.is_alive():
            raise Violation("an operation hangs")
    views = world.view()
    store.detach()
    if without_index:
        store.drop_index()
    store.mount()
    problems = survivors(world, views, store.point, adopt=True)
    if problems:
        raise Violation("; ".join(problems))


def close_and_look(store, world):
    """Unmounting makes everything durable, and the store that was left is sound."""
    mark = world.mark(written=True)
    store.must("umount", store.point)
    world.confirm(mark)
    store.mount()
    problems = survivors(world, world.view(), store.point, adopt=False)
    store.must("umount", store.point)
    store.check()
    if problems:
        raise Violation("; ".join(problems))


def main():
    program, work, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    store = Store(program, f"{work}/store", f"{work}/mnt")
    began = time.monotonic()
    violations, kills, steps = [], 0, 0
    number = "the beginning"
    world = World(store, seed, WRITERS)
    try:
        store.make()
        store.mount()
        world.prepare()
        for number in range(rounds):
            one(store, world, chance, number % 2)
            kills += 1
            steps = sum(writer.made for writer in world.writers)
        number = "the end"
        close_and_look(store, world)
    except Violation as violation:
        violations.append(f"seed {seed}, round {number}: {violation}")
    title = (
        f"kill9: seed {seed}: {kills} kills, {kills // 2} of them followed by the loss of the index; "
        f"{steps} names and files were made, {world.confirmations} confirmations; {len(violations)} violations; "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(report(title, ("",), [], violations))


main()
