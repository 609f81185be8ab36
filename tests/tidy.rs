//! The house rules as tests: which module may import which, how long a file may be, who may write which
//! word, and that no test file is left out of the build.
//!
//! A rule that only lives in a document drifts. The table of layers is that of docs/architecture.md.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A module and what it may import, from the bottom to the top.
struct Layer {
    name: &'static str,
    imports: &'static [&'static str],
}

const fn layer(name: &'static str, imports: &'static [&'static str]) -> Layer {
    Layer { name, imports }
}

const LAYERS: &[Layer] = &[
    layer("base", &[]),
    layer("format", &["base"]),
    layer("disk", &["base"]),
    layer("hash", &["base"]),
    layer("codec", &["base"]),
    layer("fec", &["base", "format"]),
    layer("meta", &["base", "format"]),
    layer("sim", &["base", "disk", "meta"]),
    layer(
        "chunk",
        &["base", "format", "disk", "hash", "codec", "fec", "meta"],
    ),
    layer(
        "engine",
        &["base", "format", "disk", "hash", "meta", "chunk"],
    ),
    layer("fuse", &["base", "engine"]),
    layer("cli", &["base", "engine", "fuse"]),
];

/// Lines of a file, tests included. A longer file is split; the number is not raised.
const FILE_LINES_MAX: usize = 800;

/// A word that only some modules may write, and what to do instead.
struct Owned {
    word: &'static str,
    owners: &'static [&'static str],
    instead: &'static str,
}

const fn owned(
    word: &'static str,
    owners: &'static [&'static str],
    instead: &'static str,
) -> Owned {
    Owned {
        word,
        owners,
        instead,
    }
}

const OWNED: &[Owned] = &[
    owned("todo!(", &[], "finish it, or return an error"),
    owned("unimplemented!(", &[], "finish it, or return an error"),
    owned(
        "println!(",
        &[],
        "cli prints through its Ui; the library never",
    ),
    owned("std::process::exit", &[], "return from main"),
    owned(
        "std::env",
        &["cli"],
        "the library does not read the environment",
    ),
    owned("std::fs", &["disk", "cli"], "files go through crate::disk"),
    // `disk` hears errno from the system; only `fuse` gives one to anybody.
    owned("libc::E", &["fuse", "disk"], "errno is decided in fuse"),
    owned("fuser::", &["fuse"], "the engine runs without FUSE"),
    owned("rocksdb::", &["meta"], "the index goes through crate::meta"),
    owned("raptorq::", &["fec"], "parity goes through crate::fec"),
    owned(
        "blake3::",
        &["hash"],
        "digests have their domains in crate::hash",
    ),
    owned("zstd::", &["codec"], "codecs are chosen in crate::codec"),
    owned(
        "wgpu::",
        &["codec"],
        "the GPU is one back end of crate::codec",
    ),
    owned(
        "fastcdc::",
        &["chunk"],
        "the chunker's parameters are the store's",
    ),
    owned(
        "lru::",
        &["chunk", "engine"],
        "caches belong to the store and the engine",
    ),
    owned("clap::", &["cli"], "the library takes typed options"),
    owned("signal_hook::", &["cli"], "signals are the program's"),
    owned(
        "env_logger::",
        &["cli"],
        "the library does not install a logger",
    ),
    owned("indicatif::", &["cli"], "progress is a callback"),
];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The code of a line: what is before a comment. (`//` within a string cuts too much, never too little of what
/// an import or a path looks like.)
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// What follows each `crate::` in a line: a module's name, or `{` for several at once.
fn imports(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        let rest = &code[at + word.len()..];
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        found.push(if rest.starts_with('{') {
            "{"
        } else {
            &rest[..end]
        });
    }
    found
}

/// Whether `code` has `word` as a word of its own: not as the end of another name.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A file of tests only (`mod x_tests;` under `cfg(test)`, or the tests at the end of a file) may use the
/// system's files and print.
fn tests_start(rel: &str, text: &str) -> usize {
    if rel.ends_with("tests.rs") || rel.contains("/tests/") {
        return 0;
    }
    text.lines()
        .position(|line| line.trim_start().starts_with("#[cfg(test)]"))
        .unwrap_or(usize::MAX)
}

/// Every rule that the file `rel` (relative to `src/`) breaks.
fn violations(rel: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let top = rel.split(['/', '.']).next().unwrap_or_default();
    let layer = LAYERS.iter().find(|layer| layer.name == top);
    if layer.is_none() && !matches!(top, "lib" | "main") {
        broken.push(format!("{rel}: `{top}` is not in the table of layers"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        broken.push(format!("{rel}: {lines} lines; split it"));
    }
    let tests = tests_start(rel, text);
    for (idx, line) in text.lines().enumerate() {
        let code = code(line);
        let place = format!("{rel}:{}", idx + 1);
        for module in imports(code) {
            if module == "{" {
                broken.push(format!("{place}: one `use crate::module::…` per module"));
            } else if module != top
                && let Some(layer) = layer
                && LAYERS.iter().any(|l| l.name == module)
                && !layer.imports.contains(&module)
            {
                broken.push(format!("{place}: `{top}` may not import `{module}`"));
            }
        }
        for owned in OWNED {
            if idx < tests && has_word(code, owned.word) && !owned.owners.contains(&top) {
                broken.push(format!("{place}: `{}`: {}", owned.word, owned.instead));
            }
        }
    }
    broken
}

#[test]
fn every_source_file_keeps_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for path in rust_files(&src) {
        let rel = path
            .strip_prefix(&src)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        broken.extend(violations(&rel, &fs::read_to_string(&path).unwrap()));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_arrows_of_the_table_point_down() {
    for (idx, layer) in LAYERS.iter().enumerate() {
        for import in layer.imports {
            assert!(
                LAYERS[..idx].iter().any(|below| below.name == *import),
                "{} -> {import} does not point down",
                layer.name
            );
        }
    }
}

#[test]
fn test_and_fuzz_files_are_not_too_long_either() {
    for dir in ["tests", "benches", "fuzz"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        if !dir.exists() {
            continue;
        }
        for path in rust_files(&dir) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(
                lines <= FILE_LINES_MAX,
                "{} has {lines} lines",
                path.display()
            );
        }
    }
}

/// Files of `root` that no other file compiles: neither `mod stem;` nor `#[path = "…/stem.rs"]` names them.
fn forgotten(root: &Path, is_root: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let files = rust_files(root);
    let texts: Vec<String> = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let named = |path: &Path| {
        let stem = path.file_stem().unwrap().to_string_lossy();
        let dir = path.parent().unwrap();
        let is_mod = |line: &str| code(line).trim_end().ends_with(&format!("mod {stem};"));
        let is_path = |line: &str| {
            line.contains("#[path") && line.contains(&*path.file_name().unwrap().to_string_lossy())
        };
        // From beside it, or from the file that the directory is named after; by path from one level up, too.
        files.iter().zip(&texts).any(|(other, text)| {
            let near = other.parent() == Some(dir) || *other == dir.with_extension("rs");
            let above = other.parent() == dir.parent();
            other != path
                && ((near && text.lines().any(is_mod))
                    || ((near || above) && text.lines().any(is_path)))
        })
    };
    files
        .iter()
        .filter(|path| !is_root(path) && !named(path))
        .cloned()
        .collect()
}

#[test]
fn no_test_file_is_forgotten() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    // Cargo compiles tests/*.rs and tests/*/main.rs.
    let found = forgotten(&tests, |path| {
        path.parent() == Some(&tests) || path.ends_with("main.rs")
    });
    assert!(found.is_empty(), "compiled by nobody: {found:?}");
}

#[test]
fn no_source_file_is_forgotten() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found = forgotten(&src, |path| {
        ["lib.rs", "main.rs", "mod.rs"]
            .iter()
            .any(|root| path.ends_with(root))
    });
    assert!(found.is_empty(), "compiled by nobody: {found:?}");
}

#[test]
fn the_checker_catches_each_rule() {
    let clean = |rel, text| assert_eq!(violations(rel, text), Vec::<String>::new());
    let caught = |rel, text: &str, what: &str| {
        let broken = violations(rel, text);
        assert!(
            broken.iter().any(|b| b.contains(what)),
            "{rel}: {text:?} gave {broken:?}"
        );
    };
    clean("engine/io.rs", "use crate::chunk::Store;\n");
    caught(
        "engine/io.rs",
        "use crate::fuse::Mounted;\n",
        "may not import `fuse`",
    );
    caught(
        "base/ids.rs",
        "fn f() { crate::engine::go() }\n",
        "may not import",
    );
    caught(
        "engine/io.rs",
        "use crate::{base, chunk};\n",
        "one `use crate",
    );
    caught("chunk/x.rs", "std::fs::read(p)\n", "through crate::disk");
    caught("engine/x.rs", "use std::fs::File;\n", "through crate::disk");
    caught("engine/x.rs", "return libc::EIO;\n", "errno is decided");
    caught("engine/x.rs", "    println!(\"x\");\n", "the library never");
    caught("meta/x.rs", "blake3::hash(b)\n", "crate::hash");
    clean("meta/x.rs", "rocksdb::DB::open(p)\n");
    caught("chunk/x.rs", "rocksdb::DB::open(p)\n", "crate::meta");
    clean("fuse/errno.rs", "=> libc::EIO,\n");
    clean("base/a.rs", "// crate::fuse::X and println!( in prose\n");
    clean("base/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n");
    clean("base/a.rs", "my_crate::fuse::x()\n");
    caught("new/x.rs", "", "not in the table");
    caught("base/a.rs", &"\n".repeat(FILE_LINES_MAX + 1), "split it");
}
