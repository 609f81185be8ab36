//! What diff says of two trees.

use super::world::{Dice, World};

fn filled() -> World {
    let world = World::new();
    for dir in ["d", "d/sub", "other"] {
        world.mkdir(dir).unwrap();
    }
    world.put("d/a", b"content of a");
    world.put("d/b", b"content of b");
    world.put("d/sub/c", &Dice(1).bytes(1_500_000));
    world.put("d/sub/e", b"");
    world.put("other/x", b"twin");
    world.put("other/y", b"twin");
    world.symlink("link", "d/a").unwrap();
    world.snapshot("one");
    world
}

/// Both ways of comparing with the same tree must agree.
#[track_caller]
fn check(world: &World, want: &[&str]) {
    assert_eq!(world.diff("one", None), want, "against the live tree");
    world.snapshot("two");
    assert_eq!(world.diff("one", Some("two")), want, "against a snapshot");
    assert!(world.diff("two", Some("two")).is_empty());
    assert!(world.diff("two", None).is_empty());
}

#[test]
fn trees_that_are_equal_have_no_differences() {
    check(&filled(), &[]);
}

#[test]
fn additions_removals_and_changes_are_told_in_the_order_of_paths() {
    let world = filled();
    world.put("d/new", b"new");
    world.unlink("d/b").unwrap();
    world.write_at("d/sub/c", 700_000, b"!").unwrap();
    world.touch("d/a", 5);
    world.unlink("link").unwrap();
    world.symlink("link", "d/b").unwrap();
    check(
        &world,
        &[
            "Attributes d/a",
            "Removed d/b",
            "Added d/new",
            "Changed d/sub/c",
            "Changed link",
        ],
    );
}

#[test]
fn a_renamed_file_is_told_by_its_content() {
    let world = filled();
    world.rename("d/a", "other/z").unwrap();
    check(&world, &["Renamed other/z from d/a"]);
}

#[test]
fn a_renamed_directory_is_one_difference() {
    let world = filled();
    world.rename("d", "e").unwrap();
    world.rename("e/sub", "other/sub").unwrap();
    check(
        &world,
        &[
            "Removed d",
            "Added e",
            "Renamed e/a from d/a",
            "Renamed e/b from d/b",
            "Renamed other/sub from d/sub",
        ],
    );
}

#[test]
fn content_that_is_there_twice_does_not_tell_a_rename() {
    let world = filled();
    world.rename("other/x", "d/x").unwrap();
    world.rename("other/y", "d/y").unwrap();
    check(
        &world,
        &[
            "Added d/x",
            "Added d/y",
            "Removed other/x",
            "Removed other/y",
        ],
    );
}

#[test]
fn a_file_in_the_place_of_a_directory_is_a_removal_and_an_addition() {
    let world = filled();
    world.rename("d/sub", "moved").unwrap();
    world.unlink("d/a").unwrap();
    world.put("d/sub", b"a file now");
    check(
        &world,
        &["Removed d/a", "Added d/sub", "Renamed moved from d/sub"],
    );
}

#[test]
fn one_change_in_a_large_directory_is_found() {
    let world = filled();
    for n in 0..1000 {
        world.put(&format!("other/{n}"), format!("{n}").as_bytes());
    }
    world.snapshot("many");
    world.put("other/500", b"changed");
    world.unlink("other/501").unwrap();
    let want = ["Changed other/500", "Removed other/501"];
    assert_eq!(world.diff("many", None), want);
    world.snapshot("more");
    assert_eq!(world.diff("many", Some("more")), want);
    assert_eq!(
        world.diff("more", Some("many")),
        ["Changed other/500", "Added other/501"]
    );
}

#[test]
fn attributes_of_a_directory_are_told_unless_its_names_explain_them() {
    let world = filled();
    world.touch("other", 7);
    world.put("d/new", b"");
    check(&world, &["Added d/new", "Attributes other"]);
}

/// Bug: nothing was told of a name that had become a file of its own beside others that were still linked.
#[test]
fn a_hard_link_that_became_a_file_of_its_own_is_told() {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/a", b"the same");
    world.link("d/a", "d/b").unwrap();
    world.touch("d/a", 1000);
    world.snapshot("one");
    world.put("d/t", b"the same");
    world.touch("d/t", 1000);
    world.rename("d/t", "d/b").unwrap();
    check(&world, &["Attributes d"]);
    world.put("d/other", b"something else");
    world.snapshot("three");
    let told = world.diff("one", Some("three"));
    assert!(told.contains(&"Attributes d".to_owned()), "{told:?}");
}
