//! When a certificate begins and ends: the two dates, by a walk to where they stand in its DER.
//!
//! ```text
//!   Certificate { tbs { [0] version, serial, algorithm, issuer, validity { notBefore, notAfter }, … } … }
//! ```

use std::time::Duration;

use domain::model::WallTime;

/// A sequence, and the tag of the version.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The dates of a certificate; none where it is no certificate.
pub(super) fn validity(der: &[u8]) -> Option<(WallTime, WallTime)> {
    let (_, certificate, _) = element(der, SEQUENCE)?;
    let (_, mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = next(rest)?;
    }
    // The serial number, the algorithm, the issuer.
    for _ in 0..3 {
        rest = next(rest)?;
    }
    let (_, dates, _) = element(rest, SEQUENCE)?;
    let (_, from, after) = any(dates)?;
    let (_, until, _) = any(after)?;
    Some((date(from)?, date(until)?))
}

/// The first element: its tag, its content, and what comes after it.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if 0x80 <= first {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes are more than a certificate ever has.
        if 4 < bytes.len() {
            return None;
        }
        length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

fn element(der: &[u8], wanted: u8) -> Option<(u8, &[u8], &[u8])> {
    any(der).filter(|(tag, _, _)| *tag == wanted)
}

fn next(der: &[u8]) -> Option<&[u8]> {
    any(der).map(|(_, _, after)| after)
}

/// `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` beyond.
fn date(text: &[u8]) -> Option<WallTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match text.len() {
        12 if text < "50" => format!("20{text}"),
        12 => format!("19{text}"),
        _ => text.to_owned(),
    };
    let date = chrono::NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%S").ok()?;
    let seconds = u64::try_from(date.and_utc().timestamp()).unwrap_or_default();
    Some(WallTime(Duration::from_secs(seconds)))
}
