//! mount(8), umount(8), fstab and systemd with the helpers of mount-helpers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use super::{World, is_mounted};

/// Runs a script that sees the helpers in /sbin, in mounts of its own; `None` if the system does not let it.
fn with_helpers(world: &World, script: &str) -> Option<Output> {
    let helpers = world.path("sbin");
    if !helpers.exists() {
        fs::create_dir(&helpers).unwrap();
        for name in [
            "mount.mmhfs",
            "mount.fuse.mmhfs",
            "umount.mmhfs",
            "umount.fuse.mmhfs",
        ] {
            symlink(env!("CARGO_BIN_EXE_mmhfs"), helpers.join(name)).unwrap();
        }
    }
    let prepare = "set -e; real=$(readlink -f /sbin); \
        mount -t overlay overlay -o \"lowerdir=$HELPERS:$real\" \"$real\" || exit 99; ";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("{prepare}{script}")])
        .env("HELPERS", &helpers)
        .env("STORE", world.store())
        .env("MNT", world.mnt())
        .output()
        .unwrap();
    if !nix::unistd::geteuid().is_root() || output.status.code() == Some(99) {
        eprintln!("no root, or no overlay over /sbin: not tested");
        return None;
    }
    Some(output)
}

#[test]
fn mount_and_umount_find_the_helpers_and_hand_them_every_fstab_option() {
    let Some(world) = World::new() else { return };
    world.mount();
    world.write("letter", "old");
    world.ok(&["snapshot", &world.mnt(), "v1"]);
    world.write("letter", "new");
    world.umount();
    for (kind, options, letter) in [
        (
            "mmhfs",
            "rw,noatime,nofail,_netdev,x-systemd.automount",
            "new",
        ),
        (
            "fuse.mmhfs",
            "allow_other,x-systemd.device-timeout=5,nosuid,nodev",
            "new",
        ),
        ("mmhfs", "ro,nofail", "new"),
        ("fuse.mmhfs", "seed=v1,noauto,user,exec", "old"),
    ] {
        // By mount(8) itself, and by a line of fstab.
        let fstab = world.path("fstab");
        let line = format!("{} {} {kind} {options} 0 0\n", world.store(), world.mnt());
        fs::write(&fstab, line).unwrap();
        for how in [
            format!("mount -t {kind} -o {options} \"$STORE\" \"$MNT\""),
            format!("mount --fstab {} \"$MNT\"", fstab.display()),
        ] {
            let script = format!(
                "{how}; cat \"$MNT/letter\"; grep -F \"$MNT\" /proc/self/mountinfo; umount \"$MNT\""
            );
            let Some(output) = with_helpers(&world, &script) else {
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{how}: {output:?}");
            assert!(text.starts_with(letter), "{how}: {text}");
            assert!(text.contains(" - fuse.mmhfs "), "{how}: {text}");
            let is_read_only = text.contains(" ro,");
            assert_eq!(
                is_read_only,
                options.contains("ro,") || letter == "old",
                "{how}: {text}"
            );
            // umount(8) has waited: the store is free.
            world.ok(&["stats", &world.store()]);
        }
    }
    let Some(output) = with_helpers(&world, "mount -t mmhfs -o noatme \"$STORE\" \"$MNT\"") else {
        return;
    };
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains("noatme"),
        "{message}"
    );
    assert!(!is_mounted(&world.point()));
}

#[test]
fn the_systemd_unit_is_understood_by_systemd() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/mmhfs@.service");
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_mmhfs");
    let text = fs::read_to_string(unit).unwrap();
    let instance = dir.path().join("mmhfs@data.service");
    fs::write(&instance, text.replace("@PREFIX@/bin/mmhfs", program)).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&instance)
        .output();
    match verified {
        Err(_) => eprintln!("no systemd-analyze: not tested"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}
