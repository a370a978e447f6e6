//! Cores and bytes as ACA writes them.

/// Below this no container starts.
const MIN_MEMORY: u64 = 4 << 20;
/// A pebibyte: more is a slip of the pen.
const MAX_MEMORY: u64 = 1 << 50;
/// Thousandths of a core; likewise.
const MAX_CPU: u32 = 1_024_000;

/// `0.25` as thousandths of a core.
pub(super) fn cpu_millis(text: &str) -> Result<u32, &'static str> {
    const RULE: &str = "cores, more than 0, with two decimals at most, such as 0.25";
    let (whole, fraction) = decimal(text.trim()).ok_or(RULE)?;
    let fraction = fraction.trim_end_matches('0');
    if 2 < fraction.len() {
        return Err(RULE);
    }
    let cores: u32 = whole.parse().map_err(|_| RULE)?;
    let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| RULE)?;
    let millis = cores.checked_mul(1000).and_then(|millis| millis.checked_add(hundredths * 10));
    millis.filter(|millis| (10..=MAX_CPU).contains(millis)).ok_or(RULE)
}

/// Thousandths of a core as `0.25`.
pub(super) fn cpu_text(millis: u32) -> String {
    format!("{}.{:02}", millis / 1000, millis % 1000 / 10)
}

/// `0.5Gi`, `250Mb` or a plain number of bytes.
pub(super) fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    const RULE: &str = "a number with a unit, such as 0.5Gi, 250Mi or 250Mb, and 4Mi at least";
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim() {
        "" | "B" | "b" => 1,
        "k" | "K" | "kb" | "Kb" | "KB" | "kB" => 1_000,
        "M" | "Mb" | "MB" => 1_000_000,
        "G" | "Gb" | "GB" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(RULE),
    };
    let (whole, fraction) = decimal(number).ok_or(RULE)?;
    // Nine decimals are a byte of a gigabyte; what follows them changes nothing.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| RULE)?);
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| RULE)?;
    let bytes = digits.checked_mul(u128::from(unit)).map(|total| total / scale).ok_or(RULE)?;
    let bytes = u64::try_from(bytes).map_err(|_| RULE)?;
    if (MIN_MEMORY..=MAX_MEMORY).contains(&bytes) { Ok(bytes) } else { Err(RULE) }
}

/// `1.25` as its two sides.
fn decimal(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let some = !whole.is_empty() || !fraction.is_empty();
    let whole = if whole.is_empty() { "0" } else { whole };
    (some && digits(whole) && digits(fraction)).then_some((whole, fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_have_two_decimals_at_most() {
        for (text, millis) in
            [("0.25", 250), ("1", 1000), ("2.0", 2000), (".5", 500), ("1.250", 1250)]
        {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
            assert_eq!(cpu_millis(&cpu_text(millis)), Ok(millis));
        }
        for text in ["", "0", "0.00", "1.555", "-1", "1e3", "500m", ".", "99999999999"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_knows_the_units_that_documents_use() {
        let cases = [
            ("0.5Gi", 512 << 20),
            ("1.0Gi", 1 << 30),
            ("250Mb", 250_000_000),
            ("100Mi", 100 << 20),
            ("4194304", 4 << 20),
            ("5000k", 5_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "Gi",
            "1 000Mi",
            "1Xi",
            "3Mi",
            "0",
            "-1Gi",
            "1e3Mi",
            "9999999999999999999999999999999999999999Gi",
        ] {
            assert!(memory_bytes(text).is_err(), "{text}");
        }
    }
}
