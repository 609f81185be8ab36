//! How the findings of `check` and `verify` are shown.

use super::exit::{Exit, Failure, Outcome};
use super::facts::{ProblemFacts, ReportFacts};
use super::request::{Answer, mismatch};
use super::ui::{Ui, count, size};

/// Prints the report; problems make the command fail.
pub(super) fn show(ui: &Ui, answer: Answer) -> Outcome<()> {
    let report = of(answer)?;
    ui.show(&report, human)?;
    outcome(&report)
}

/// The report in an answer.
pub(super) fn of(answer: Answer) -> Outcome<ReportFacts> {
    match answer {
        Answer::Report(report) => Ok(report),
        other => Err(mismatch(&other)),
    }
}

/// How the command ends.
pub(super) fn outcome(report: &ReportFacts) -> Outcome<()> {
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Damage,
        count(
            report.problems.len() as u64,
            "problem found",
            "problems found",
        ),
    ))
}

/// The report for people.
pub(super) fn human(report: &ReportFacts) -> String {
    let mut lines: Vec<String> = report.problems.iter().flat_map(problem).collect();
    if let Some(bare) = report.unprotected.filter(|bare| *bare > 0) {
        lines.push(format!(
            "{} without parity",
            count(bare, "pack is", "packs are")
        ));
    }
    lines.push(format!(
        "checked {}, {}, {}, {}, {}",
        count(report.packs, "pack", "packs"),
        count(report.records, "record", "records"),
        count(report.frames, "frame", "frames"),
        count(report.entries, "entry", "entries"),
        size(report.bytes),
    ));
    lines.join("\n")
}

fn problem(problem: &ProblemFacts) -> Vec<String> {
    let place = match (&problem.pack, problem.offset) {
        (Some(pack), Some(offset)) => format!("{pack} at {offset}: "),
        (Some(pack), None) => format!("{pack}: "),
        _ => String::new(),
    };
    let mut lines = vec![format!("{place}{}", problem.detail)];
    lines.extend(problem.paths.iter().map(|path| format!("  affects {path}")));
    lines
}
