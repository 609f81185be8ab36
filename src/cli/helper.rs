//! The program under the names that mount(8) and umount(8) call: `mount.mmhfs`, `mount.fuse.mmhfs`,
//! `umount.mmhfs`, `umount.fuse.mmhfs`. Their arguments become those of `mmhfs mount` and `mmhfs umount`.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use super::exit::{Exit, Failure, Outcome};

/// What a helper's command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Run `mmhfs` with these arguments.
    Run(Vec<OsString>),
    /// `-f` of mount(8): everything but the mount.
    Nothing,
    /// A change of options of an existing mount is the kernel's business.
    Remount(Vec<OsString>),
}

/// The helper that `program` is called as, if it is one.
pub(super) fn role(program: &OsStr) -> Option<Role> {
    match Path::new(program).file_name()?.to_str()? {
        "mount.mmhfs" | "mount.fuse.mmhfs" => Some(Role::Mount),
        "umount.mmhfs" | "umount.fuse.mmhfs" => Some(Role::Umount),
        _ => None,
    }
}

/// Which helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Mount,
    Umount,
}

/// Understands `mount.TYPE SOURCE MNT [-sfnvrw] [-N NS] [-t TYPE] [-o OPTS]` or
/// `umount.TYPE MNT [-flnrv] [-N NS] [-t TYPE]` (mount(8), "External helpers").
pub(super) fn translate(role: Role, arguments: &[OsString]) -> Outcome<Task> {
    let mut places = Vec::new();
    let mut options: Vec<OsString> = Vec::new();
    let (mut fake, mut lazy) = (false, false);
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) else {
            places.push(argument.clone());
            continue;
        };
        for (at, letter) in letters.char_indices() {
            if matches!(letter, 'o' | 'N' | 't') {
                let tail = letters.get(at + 1..).unwrap_or_default();
                let value = if tail.is_empty() {
                    rest.next().cloned()
                } else {
                    Some(tail.into())
                };
                let value =
                    value.ok_or_else(|| Failure::usage(format!("-{letter} needs a value")))?;
                if letter == 'o' {
                    options.push(value);
                }
                break;
            }
            match (role, letter) {
                (Role::Mount, 'f') => fake = true,
                (Role::Mount, 'r') => options.push("ro".into()),
                (Role::Mount, 'w') => options.push("rw".into()),
                (Role::Umount, 'l') => lazy = true,
                // No mtab, verbose, sloppy, force (nothing is on a network), remount read-only on failure.
                (_, 'n' | 'v' | 's' | 'f' | 'r') => {}
                _ => return Err(Failure::usage(format!("unknown option -{letter}"))),
            }
        }
    }
    match (role, places.as_slice()) {
        (Role::Mount, [source, point]) => Ok(mount(source, point, &options, fake)),
        (Role::Umount, [point]) => {
            let flag = lazy.then(|| "--lazy".into());
            let start = ["mmhfs".into(), "umount".into()];
            Ok(Task::Run(
                start
                    .into_iter()
                    .chain(flag)
                    .chain([point.clone()])
                    .collect(),
            ))
        }
        (Role::Mount, _) => Err(Failure::usage("usage: mount.mmhfs STORE MNT [-o OPTIONS]")),
        (Role::Umount, _) => Err(Failure::usage("usage: umount.mmhfs MNT")),
    }
}

fn mount(source: &OsStr, point: &OsStr, options: &[OsString], fake: bool) -> Task {
    let list = options.join(OsStr::new(","));
    let remount = list.to_string_lossy().split(',').any(|o| o == "remount");
    let mut arguments: Vec<OsString> = if remount {
        vec!["-i".into()]
    } else {
        vec!["mmhfs".into(), "mount".into()]
    };
    if !list.is_empty() {
        arguments.extend(["-o".into(), list]);
    }
    arguments.extend([source.into(), point.into()]);
    match (fake, remount) {
        (true, _) => Task::Nothing,
        (false, true) => Task::Remount(arguments),
        (false, false) => Task::Run(arguments),
    }
}

/// Hands a remount to mount(8) itself, without helpers.
pub(super) fn remount(arguments: &[OsString]) -> Outcome<()> {
    let status = Command::new("mount")
        .args(arguments)
        .status()
        .map_err(|e| Failure::io("cannot run mount", &e))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Io, "remount failed"))
}

/// The exit code that mount(8) understands.
pub(super) fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Success => 0,
        Exit::Usage => 1,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(role: Role, line: &str) -> Outcome<Task> {
        let arguments: Vec<OsString> = line.split(' ').map(Into::into).collect();
        translate(role, &arguments)
    }

    fn run(line: &str) -> Task {
        Task::Run(line.split(' ').map(Into::into).collect())
    }

    #[test]
    fn mount_passes_place_and_options() {
        assert_eq!(
            translated(
                Role::Mount,
                "mount.mmhfs /s /m -n -o rw,noatime -t mmhfs -o seed=v1"
            )
            .unwrap(),
            run("mmhfs mount -o rw,noatime,seed=v1 /s /m")
        );
        assert_eq!(
            translated(Role::Mount, "mount.mmhfs /s /m -rsv").unwrap(),
            run("mmhfs mount -o ro /s /m")
        );
        assert_eq!(
            translated(Role::Mount, "mount.mmhfs /s /m -f").unwrap(),
            Task::Nothing
        );
    }

    #[test]
    fn a_remount_goes_to_the_kernel() {
        let Task::Remount(arguments) =
            translated(Role::Mount, "mount.mmhfs /s /m -o remount,ro").unwrap()
        else {
            panic!("not a remount");
        };
        assert_eq!(arguments.first().unwrap(), "-i");
    }

    #[test]
    fn umount_knows_lazy() {
        assert_eq!(
            translated(Role::Umount, "umount.mmhfs /m -l -n").unwrap(),
            run("mmhfs umount --lazy /m")
        );
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "mount.mmhfs /s",
            "mount.mmhfs /s /m -Q",
            "mount.mmhfs /s /m -o",
        ] {
            assert_eq!(
                translated(Role::Mount, line).err().map(|f| f.exit),
                Some(Exit::Usage),
                "{line}"
            );
        }
    }

    #[test]
    fn only_helper_names_are_helpers() {
        assert_eq!(
            role(OsStr::new("/sbin/mount.fuse.mmhfs")),
            Some(Role::Mount)
        );
        assert_eq!(role(OsStr::new("umount.mmhfs")), Some(Role::Umount));
        assert_eq!(role(OsStr::new("/usr/bin/mmhfs")), None);
    }
}
