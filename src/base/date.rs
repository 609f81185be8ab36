//! Moments as people write them.

/// Date and time to the second in UTC, RFC 3339 with `between` in the place of the colons of the time.
///
/// `secs` counts from 1970-01-01.
#[must_use]
pub fn utc(secs: i64, between: char) -> String {
    let of_day = secs.rem_euclid(86_400);
    let (year, month, day) = civil(secs.div_euclid(86_400));
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}{between}{:02}{between}{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
#[must_use]
pub fn civil(days: i64) -> (i64, i64, i64) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(0, ':'), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696, '-'), "2000-02-29T12-34-56Z");
        assert_eq!(utc(1_795_349_900, '-'), "2026-11-22T12-18-20Z");
        assert_eq!(utc(-1, ':'), "1969-12-31T23:59:59Z");
        assert!(utc(i64::MAX, ':').ends_with('Z'));
    }
}
