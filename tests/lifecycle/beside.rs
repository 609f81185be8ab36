//! Commands and mounts of snapshots beside a store that is mounted for writing.

use std::fs;
use std::process::Stdio;

use super::{World, is_mounted, program};

fn mounted_with_a_snapshot() -> Option<(World, String)> {
    let world = World::new()?;
    fs::create_dir(world.path("old")).unwrap();
    world.mount();
    fs::create_dir(world.point().join("dir")).unwrap();
    world.write("dir/letter", "old");
    let seed = world
        .ok(&["snapshot", &world.mnt(), "v1"])
        .trim()
        .to_owned();
    world.write("dir/letter", "new");
    Some((world, seed))
}

#[test]
fn a_snapshot_is_mounted_beside_the_live_tree() {
    let Some((world, seed)) = mounted_with_a_snapshot() else {
        return;
    };
    let old = world.path("old");
    world.ok(&["mount", "--seed", &seed, &world.store(), "old"]);
    assert_eq!(fs::read_to_string(old.join("dir/letter")).unwrap(), "old");
    assert_eq!(world.read("dir/letter"), "new");
    let refused = fs::write(old.join("dir/letter"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(world.ok(&["seed", "old"]).trim(), seed);
    let message = world.fails(4, &["delete-snapshot", &world.store(), "v1"]);
    assert!(message.contains("/old"), "{message}");
    world.ok(&["umount", "old"]);
    assert!(!is_mounted(&old) && is_mounted(&world.point()));
    world.write("dir/letter", "newer");
    world.ok(&["mount", "--seed", "v1", &world.store(), "old"]);
    assert_eq!(fs::read_to_string(old.join("dir/letter")).unwrap(), "old");
    world.umount();
    assert!(!is_mounted(&old) && !is_mounted(&world.point()));
    world.mount();
    assert_eq!(world.read("dir/letter"), "newer");
    world.ok(&["delete-snapshot", &world.store(), "v1"]);
}

#[test]
fn a_snapshot_in_use_beside_the_live_tree_keeps_both_until_its_user_has_gone() {
    let Some((world, _)) = mounted_with_a_snapshot() else {
        return;
    };
    let old = world.path("old");
    world.ok(&["mount", "--seed", "v1", &world.store(), "old"]);
    let mut user = std::process::Command::new("cat")
        .arg("-")
        .arg("dir/letter")
        .current_dir(&old)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let message = world.fails(4, &["umount", &world.mnt()]);
    assert!(message.contains("/old"), "{message}");
    assert!(is_mounted(&old) && is_mounted(&world.point()));
    let waiting = program()
        .args(["umount", "--lazy", &world.mnt()])
        .spawn()
        .unwrap();
    while is_mounted(&world.point()) || is_mounted(&old) {
        std::thread::yield_now();
    }
    // What it has detached is still served.
    drop(user.stdin.take());
    let output = user.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"old", "{output:?}");
    assert!(waiting.wait_with_output().unwrap().status.success());
    world.mount();
}

#[test]
fn a_failed_mount_beside_the_live_tree_says_why() {
    let Some((world, _)) = mounted_with_a_snapshot() else {
        return;
    };
    world.fails(7, &["mount", "--seed", "no-such", &world.store(), "old"]);
    world.fails(13, &["mount", "--seed", "v1", &world.store(), "nowhere"]);
    assert!(!is_mounted(&world.path("old")));
    let message = world.fails(
        4,
        &[
            "mount",
            "--foreground",
            "--seed",
            "v1",
            &world.store(),
            "old",
        ],
    );
    assert!(message.contains(&world.mnt()), "{message}");
}

#[test]
fn every_reading_command_works_on_a_mounted_store() {
    let Some((world, seed)) = mounted_with_a_snapshot() else {
        return;
    };
    for store in [world.store(), world.mnt()] {
        let store = store.as_str();
        assert!(world.ok(&["snapshots", store]).contains(&seed));
        assert_eq!(world.ok(&["cat", store, "v1", "dir/letter"]), "old");
        assert_eq!(world.ok(&["ls", store, "v1", "dir"]), "dir/letter\n");
        world.ok(&["verify", store, &seed]);
        assert!(world.ok(&["diff", store, "v1"]).contains("dir/letter"));
        assert!(world.ok(&["stats", store]).contains("1"));
        world.ok(&["restore", store, "v1", "out"]);
        assert_eq!(world.ok(&["seed", "out"]).trim(), seed);
        fs::remove_dir_all(world.path("out")).unwrap();
    }
    // Into the mount itself: the process that writes is the one that answers.
    let inside = world.point().join("restored");
    world.ok(&["restore", &world.mnt(), "v1", inside.to_str().unwrap()]);
    assert_eq!(world.read("restored/dir/letter"), "old");
}
