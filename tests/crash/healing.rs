//! One crash point with damage after it: what parity covers comes back, whatever happens on the way (I3).

use mmhfs::base::PackId;
use mmhfs::chunk::{ParityPlace, ParityStore, load_superblock, pack_name};
use mmhfs::disk::Disk;
use mmhfs::engine::Engine;
use mmhfs::format::parity::{ParityHeader, ParityKind};
use std::sync::Arc;

use crate::recovery::{Found, Outcome, Point, clean_all, sound};
use crate::world::env;

/// A pack that a parity file covers.
struct Victim {
    header: Arc<ParityHeader>,
    member: usize,
    name: String,
    len: u64,
}

impl Victim {
    /// Whether parity suffices for the loss of the whole pack.
    fn may_be_lost(&self) -> bool {
        // A few symbols more than are missing: with as many only, one decoding of a hundred fails.
        self.header.rows(self.member) + 3 <= self.header.shape().repair_count
    }
}

impl Point<'_> {
    /// Sectors of a pack that parity covers rot, or all of it is lost: the tree is right all the same, also if the power
    /// fails while it is brought back.
    pub(crate) fn heal(mut self) -> Outcome<()> {
        let mut medium = self.shot.medium.after_power_loss(&mut self.dice);
        let index = self.index();
        let before = Found::new(medium.clone(), index.copy(), self.dir, 1);
        let Some(victim) = self.covered(&before) else {
            return Ok(());
        };
        log::info!(
            "{} of {:?}",
            victim.name,
            before.disk.medium().durable_files()
        );
        self.tally.healed += 1;
        self.tally.healed_groups += u64::from(victim.header.kind() == ParityKind::Group);
        let lost = victim.may_be_lost() && self.dice.one_in(2);
        if lost {
            self.tally.healed_packs += 1;
            medium.lose(&victim.name);
        } else {
            for _ in 0..1 + self.dice.below(4) {
                medium.flip(&victim.name, self.dice.below(victim.len) as usize);
            }
        }
        let mut found = Found::new(medium, index, self.dir, self.dice.word());
        if self.dice.one_in(2) {
            found = self.crash_while_healing(found)?;
        }
        log::info!(
            "before the last opening: {:?}",
            found.disk.medium().durable_files()
        );
        let what = if lost { "lost" } else { "damaged" };
        let after = |text: String| format!("{} was {what}: {text}", victim.name);
        let Some(mut world) = self.open(&found).map_err(after)? else {
            return Err(after("the store was never made".to_owned()));
        };
        let state = self.look(&world, None).map_err(after)?;
        self.snapshots(&world).map_err(after)?;
        let protected = world.engine().protect();
        protected.map_err(|error| after(format!("protect: {error}")))?;
        // What nobody has read of it is not mended by reading.
        if lost {
            sound(&world).map_err(after)?;
        }
        if self.dice.one_in(3) {
            clean_all(&world).map_err(after)?;
            self.look(&world, Some(state)).map_err(after)?;
        }
        world.engine = None;
        Ok(())
    }

    /// The power fails somewhere between opening the store and the end of its repair.
    fn crash_while_healing(&mut self, found: Found) -> Outcome<Found> {
        self.tally.healed_crashes += 1;
        found.disk.crash_at(1 + self.dice.below(60));
        let config = self.run.config.clone();
        match Engine::open_on(&found.place, env(self.run.seed ^ 7), config) {
            Ok(engine) => {
                let mut world = self.new_world(engine);
                // A repair that was cut off does not keep the store from opening.
                if !found.disk.is_off() {
                    self.look(&world, None)?;
                }
                let done = world.engine().protect();
                if !found.disk.is_off() {
                    done.map_err(|error| format!("protect: {error}"))?;
                }
                world.engine = None;
            }
            Err(_) if found.disk.is_off() => {}
            Err(error) => return Err(format!("the store does not open: {error}")),
        }
        let medium = found.disk.medium().after_power_loss(&mut self.dice);
        let index = found.place.index.as_ref().unwrap().copy();
        Ok(Found::new(medium, index, self.dir, self.dice.word()))
    }

    /// One of the packs that are there, part of the store and covered.
    fn covered(&mut self, found: &Found) -> Option<Victim> {
        let disk = Arc::clone(&found.disk) as Arc<dyn Disk>;
        let superblock = load_superblock(disk.as_ref()).ok()?;
        let place = ParityPlace::within(Arc::clone(&disk));
        let parity = ParityStore::open(Arc::clone(&disk), place, superblock.store).ok()?;
        let files = found.disk.medium().durable_files();
        let mut fit = Vec::new();
        for header in parity.all() {
            for (member, facts) in header.members().iter().enumerate() {
                let name = pack_name(facts.pack, facts.kind);
                // The best file is the one that counts; others may be on their way out.
                let best = parity.covering(facts.pack).map(|cover| cover.parity);
                let whole = header.members().iter().all(|m| {
                    let name = pack_name(m.pack, m.kind);
                    files.iter().any(|(other, _)| *other == name)
                });
                if best == Some(header.parity()) && whole && facts.pack > PackId::from_raw(0) {
                    fit.push(Victim {
                        header: Arc::clone(&header),
                        member,
                        name,
                        len: facts.len.raw(),
                    });
                }
            }
        }
        if fit.is_empty() {
            return None;
        }
        let at = self.dice.below(fit.len() as u64) as usize;
        Some(fit.swap_remove(at))
    }
}
