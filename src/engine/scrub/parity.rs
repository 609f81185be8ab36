//! The part of a scrub that looks at parity files.

use super::Scrub;
use crate::base::{Error, Result};
use crate::chunk::{ParityCheck, ParityRepair};
use crate::engine::types::DamageState;

/// What is wrong with a parity file, in words.
pub(in crate::engine) fn describe(check: &ParityCheck) -> String {
    let mut parts = Vec::new();
    if check.missing {
        return "the file is missing".to_owned();
    }
    if check.wrong_len {
        parts.push("wrong length".to_owned());
    }
    for (count, what) in [
        (check.headers_bad, "damaged headers"),
        (check.pages_bad, "damaged pages of its table"),
        (check.pages_lost, "pages of which both copies are damaged"),
        (check.symbols_bad, "damaged symbols"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(", ")
}

impl Scrub<'_> {
    pub(super) fn parity_files(&mut self) -> Result<()> {
        let mut put_away = 0_u64;
        for bad in self.parity.unreadable() {
            let name = self.parity.name(bad.parity);
            let mut state = DamageState::Repairable;
            if self.repair {
                let _turn = self.engine.parity_turn.lock();
                state = match self.parity.put_away(bad.parity)? {
                    Some(kept) => {
                        self.report.quarantined.push(kept);
                        put_away += 1;
                        DamageState::Repaired
                    }
                    None => DamageState::BeyondRepair,
                };
            }
            self.note(name, &[], bad.detail, state);
        }
        for header in self.parity.all() {
            let id = header.parity();
            let check = match self.parity.check_parity(id) {
                Ok(check) => check,
                // It was replaced meanwhile.
                Err(Error::Invalid(_)) => continue,
                Err(other) => return Err(other),
            };
            self.report.parity_files += 1;
            self.pace.read(header.file_len().raw())?;
            self.pace.one_more();
            // Removed between the two looks: a group's file has taken its place.
            if check.is_clean() || self.parity.header(id).is_none() {
                continue;
            }
            let name = self.parity.name(id);
            let mut detail = describe(&check);
            let mut state = DamageState::Repairable;
            if self.repair {
                let _turn = self.engine.parity_turn.lock();
                state = DamageState::Repaired;
                match self.parity.repair_parity(id, &self.engine.parity_config()) {
                    Ok(ParityRepair::Clean) => continue,
                    Ok(ParityRepair::Copied | ParityRepair::Encoded) => {}
                    Err(_) if self.parity.header(id).is_none() => continue,
                    Err(error) => {
                        detail = format!("{detail}; it could not be made anew: {error}");
                        state = DamageState::BeyondRepair;
                    }
                }
            }
            self.note(name, &[], detail, state);
        }
        if put_away > 0 {
            self.cover_bare()?;
        }
        Ok(())
    }

    /// Covers the packs again that a parity file covered which could not be read: each finished one that nothing covers.
    fn cover_bare(&mut self) -> Result<()> {
        if self.engine.config.read_only {
            return Ok(());
        }
        for why in self.engine.protect()?.refused {
            log::warn!("scrub: no parity: {why}");
        }
        Ok(())
    }
}
