//! Mounting by somebody who is not root, by way of fusermount3.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::World;

/// The user is nobody: one with a name, which fusermount3 asks for. Everybody may use FUSE in its mounts, as on an ordinary system.
const PREPARE: &str = r#"
set -eu
cd "$HOME_DIR"
export PATH="$HOME_DIR:$PATH"
mknod fuse c 10 229 && chmod 666 fuse
mount --bind fuse /dev/fuse && [ -w /dev/fuse ] || exit 99
printf '%s' "$FUSE_CONF" >fuse.conf
[ ! -e /etc/fuse.conf ] || mount --bind fuse.conf /etc/fuse.conf
mkdir home && chown nobody home
cd home
user() { setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups sh -euc "$1"; }
equal() { [ "$1" = "$2" ] || { echo "$3: '$1', not '$2'" >&2; exit 1; }; }
"#;

/// Runs a script after [`PREPARE`] in mounts of its own; `false` if the system does not let it.
fn run(fuse_conf: &str, script: &str) -> bool {
    let Some(world) = World::new() else {
        return false;
    };
    fs::set_permissions(world.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_mmhfs"), world.path("mmhfs")).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("{PREPARE}{script}")])
        .env("HOME_DIR", world.path(""))
        .env("FUSE_CONF", fuse_conf)
        .output()
        .unwrap();
    if !nix::unistd::geteuid().is_root() || output.status.code() == Some(99) {
        eprintln!("no root, or no /dev/fuse for others: not tested");
        return false;
    }
    assert!(output.status.success(), "{output:?}");
    true
}

#[test]
fn an_ordinary_user_mounts_writes_and_unmounts() {
    run(
        "",
        r#"
user 'mkdir mnt old; mmhfs init store; mmhfs mount store mnt; echo hello >mnt/letter'
equal "$(user 'cat mnt/letter; stat -c %U mnt/letter')" "hello
nobody" 'what was written'
if cat mnt/letter 2>&1; then echo 'root was let in' >&2; exit 1; fi
user 'mmhfs snapshot mnt v1; echo new >mnt/letter; mmhfs mount --seed v1 store old'
equal "$(user 'cat old/letter')" hello 'the snapshot'
user 'mmhfs umount old; mmhfs umount mnt'
equal "$(grep -c " $PWD/mnt " /proc/self/mountinfo || true)" 0 'mounts that are left'
user 'mmhfs mount store mnt'
equal "$(user 'cat mnt/letter')" new 'after a remount'
user 'fusermount3 -u mnt; mmhfs check store'
"#,
    );
}

#[test]
fn an_ordinary_user_lets_others_in_only_if_the_administrator_allows_it() {
    let refused = r#"
user 'mkdir mnt; mmhfs init store'
code=0
user 'mmhfs mount --allow-other store mnt 2>message' || code=$?
equal $code 2 'the exit code'
grep -q user_allow_other message
grep -q /etc/fuse.conf message
equal "$(grep -c " $PWD/mnt " /proc/self/mountinfo || true)" 0 'mounts that are left'
user 'mmhfs mount store mnt; mmhfs umount mnt'
"#;
    if run("", refused) {
        run(
            "user_allow_other\n",
            r#"
user 'mkdir mnt; mmhfs init store; mmhfs mount --allow-other store mnt; echo hello >mnt/letter'
equal "$(cat mnt/letter)" hello 'what root reads'
user 'mmhfs umount mnt'
"#,
        );
    }
}
