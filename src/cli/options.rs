//! The options after `-o`, of `mmhfs mount`, mount(8) and fstab.

use super::exit::{Failure, Outcome};
use super::mount::Args;

/// Options that mean something only to mount(8), systemd or an fstab reader, and those that are the default.
const IGNORED: &[&str] = &[
    "rw",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "defaults",
    "suid",
    "dev",
    "exec",
    "relatime",
    "async",
    "diratime",
    "default_permissions",
    "silent",
    "loud",
    "norelatime",
];
/// Prefixes of the same kind.
const IGNORED_PREFIXES: &[&str] = &[
    "x-", "comment=", "fsname=", "subtype=", "uhelper=", "helper=",
];

/// Applies a comma-separated list of options.
///
/// # Errors
/// An unknown option, or a bad value: a typo in fstab must not mount something else than was meant.
pub(super) fn apply(args: &mut Args, list: &str) -> Outcome<()> {
    for option in list.split(',').filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "ro" => args.read_only = true,
            "rw" => args.read_only = false,
            "noatime" | "nodiratime" => args.noatime = true,
            "strictatime" => args.strictatime = true,
            "allow_other" => args.allow_other = true,
            "no_allow_other" => args.only_me = true,
            "nosuid" => args.nosuid = true,
            "suid" => args.nosuid = false,
            "nodev" => args.nodev = true,
            "dev" => args.nodev = false,
            "noexec" => args.noexec = true,
            "exec" => args.noexec = false,
            "user" | "users" | "owner" | "group" => {
                // mount(8): these imply the three, unless overridden by a later option.
                args.nosuid = true;
                args.nodev = true;
                args.noexec = args.noexec || name == "user" || name == "users";
            }
            "verify_writes" => args.no_verify_writes = false,
            "no_verify_writes" => args.no_verify_writes = true,
            "seed" => args.seed = Some(required(name, value)?.to_owned()),
            "memory" => {
                args.memory = Some(parse_size(required(name, value)?).map_err(Failure::usage)?)
            }
            "size_limit" => {
                args.size_limit = Some(parse_size(required(name, value)?).map_err(Failure::usage)?);
            }
            "auto_clean" => args.auto_clean = true,
            "no_auto_clean" => args.auto_clean = false,
            "level" => args.level = Some(number(name, value)?),
            "threads" => args.threads = Some(number(name, value)?),
            "" => return Err(Failure::usage(format!("malformed mount option {option:?}"))),
            _ if IGNORED.contains(&option)
                || IGNORED_PREFIXES
                    .iter()
                    .any(|prefix| option.starts_with(prefix)) => {}
            _ => return Err(Failure::usage(format!("unknown mount option {option:?}"))),
        }
    }
    Ok(())
}

fn required<'a>(name: &str, value: &'a str) -> Outcome<&'a str> {
    if value.is_empty() {
        return Err(Failure::usage(format!(
            "mount option {name} needs a value: {name}=…"
        )));
    }
    Ok(value)
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Outcome<T> {
    required(name, value)?
        .parse()
        .map_err(|_| Failure::usage(format!("mount option {name}: {value:?} is not a number")))
}

/// A size in bytes: a number with an optional K, M, G or T (powers of 1024; `KiB` and the like are fine).
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{text:?}: the unit must be K, M, G or T")),
    };
    let value: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a size such as 512M"))?;
    value
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(list: &str) -> Outcome<Args> {
        let mut args = Args::default();
        apply(&mut args, list).map(|()| args)
    }

    #[test]
    fn a_mount_cleans_by_itself_only_if_it_is_told_to() {
        assert!(!applied("rw").unwrap().auto_clean);
        assert!(applied("auto_clean").unwrap().auto_clean);
        assert!(!applied("auto_clean,no_auto_clean").unwrap().auto_clean);
    }

    #[test]
    fn fstab_options_are_understood() {
        let args =
            applied("rw,noatime,seed=v1,memory=1G,level=-3,nofail,x-systemd.automount,_netdev")
                .unwrap();
        assert!(args.noatime && !args.read_only);
        assert_eq!(args.seed.as_deref(), Some("v1"));
        assert_eq!(args.memory, Some(1 << 30));
        assert_eq!(args.level, Some(-3));
    }

    #[test]
    fn a_later_option_wins() {
        assert!(!applied("ro,rw").unwrap().read_only);
        assert!(applied("user").unwrap().noexec);
        assert!(!applied("user,exec").unwrap().noexec);
    }

    #[test]
    fn a_mistyped_option_is_refused() {
        for list in [
            "noatme",
            "memory=",
            "memory=12X",
            "level=high",
            "=3",
            "seed",
        ] {
            let failure = applied(list)
                .err()
                .unwrap_or_else(|| panic!("{list} was accepted"));
            assert_eq!(failure.exit, super::super::exit::Exit::Usage);
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("77"), Ok(77));
        assert!(parse_size("99999999999T").is_err());
        assert!(parse_size("M").is_err());
    }
}
