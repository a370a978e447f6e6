//! Rules about single texts, each with the sentence that a person reads when it is broken.

use super::findings::Expressions;
use crate::window::Schedule;

/// A truth value as YAML 1.1 knows it, which is what `az` reads.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A whole number, also written as `80.0`.
pub(super) fn whole(text: &str) -> Option<i128> {
    let text = text.trim();
    let (digits, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nothing_after = !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0');
    if nothing_after { digits.parse().ok() } else { None }
}

/// Whether `text` is an expression that Azure's resource manager was to replace.
pub(super) fn is_expression(text: &str, meaning: Expressions) -> bool {
    const FUNCTIONS: &[&str] = &[
        "parameters",
        "variables",
        "concat",
        "resourceid",
        "reference",
        "format",
        "if",
        "listkeys",
        "json",
    ];
    let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return false;
    };
    match meaning {
        Expressions::Literal => false,
        Expressions::Arm => true,
        // Outside a template `[…]` is most often a list in JSON that an app wants as a text.
        Expressions::Guess => inner.split_once('(').is_some_and(|(name, _)| {
            FUNCTIONS.contains(&name.trim().to_ascii_lowercase().as_str()) && inner.ends_with(')')
        }),
    }
}

/// A DNS label.
pub(super) fn label(text: &str) -> Result<(), &'static str> {
    if text.len() <= 63 && is_label(text) {
        return Ok(());
    }
    Err("1 to 63 characters, a-z, 0-9 and dashes, no dash first or last")
}

/// The label of a revision: it becomes a host name.
pub(crate) fn traffic_label(text: &str) -> Result<(), &'static str> {
    let starts_with_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_with_letter && text.len() <= 64 && is_label(text) && !text.contains("--") {
        return Ok(());
    }
    Err("1 to 64 characters, a-z, 0-9 and single dashes, first a letter, last no dash")
}

/// The name of a secret: it becomes a file name.
pub fn secret_name(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() <= 253
        && text.chars().all(inner)
        && text.starts_with(ends)
        && text.ends_with(ends)
    {
        return Ok(());
    }
    Err("1 to 253 characters, a-z, 0-9, dashes and dots, first and last a letter or digit")
}

/// The reference of an image, as far as it can be told without a registry.
pub(super) fn image(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    if text.len() <= 1024 && text.chars().all(inner) && !text.starts_with(['/', ':', '@', '-']) {
        return Ok(());
    }
    Err("an image reference such as registry.example/app:1.2")
}

/// The host of a registry, perhaps with a port.
pub(super) fn registry(text: &str) -> Result<(), &'static str> {
    if text.len() <= 300 && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Ok(());
    }
    Err("a host, or host:port")
}

/// A host name of the user's own.
pub(super) fn host_name(text: &str) -> Result<(), &'static str> {
    let lower = text.to_ascii_lowercase();
    let labels = lower.split('.').all(|part| part.len() <= 63 && is_label(part));
    if labels && text.len() <= 253 {
        return Ok(());
    }
    Err("a host name of labels and dots, without a wildcard")
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<(), &'static str> {
    if text.len() <= 1024 && !text.contains('=') && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err("a name without '='")
}

/// Where a volume appears in a container.
pub(super) fn mount_path(text: &str) -> Result<(), &'static str> {
    let absolute = text.starts_with('/') && 1 < text.len() && text.len() <= 1024;
    if absolute && !text.contains(':') && !climbs(text) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err("an absolute path other than /, without ':' and '..'")
}

/// A path inside a volume.
pub(super) fn relative_path(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('/')
        && text.len() <= 1024
        && !climbs(text)
        && !text.chars().any(char::is_control)
    {
        return Ok(());
    }
    Err("a relative path without '..'")
}

/// Five fields of a cron expression, as those who act on it read them.
pub(super) fn cron(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "*/,-?# ".contains(c);
    if text.len() <= 256 && text.chars().all(inner) && Schedule::read(text).is_ok() {
        return Ok(());
    }
    Err(
        "five fields: minute 0-59, hour 0-23, day of the month 1-31, month 1-12, day of the week 0-7",
    )
}

/// The name of a time zone in the IANA database. Whether the board knows it is seen when it is needed.
pub(super) fn time_zone(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_+-".contains(c);
    let part = |part: &str| !part.is_empty() && part.chars().all(inner);
    if text.len() <= 64 && text.split('/').all(part) {
        return Ok(());
    }
    Err("the IANA name of a time zone, such as Europe/Berlin, or UTC")
}

/// The path of an HTTP request.
pub(super) fn request_path(text: &str) -> Result<(), &'static str> {
    if text.len() <= 2048 && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Ok(());
    }
    Err("a path without white space")
}

/// The name of an HTTP header.
pub(super) fn header_name(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if text.len() <= 256 && text.chars().all(inner) {
        return Ok(());
    }
    Err("the name of an HTTP header")
}

/// The value of an HTTP header.
pub(super) fn header_value(text: &str) -> Result<(), &'static str> {
    if text.len() <= 4096 && text.chars().all(|c| c == '\t' || !c.is_control()) {
        return Ok(());
    }
    Err("one line")
}

/// A path on the board or in a container.
pub(super) fn absolute_path(text: &str) -> Result<(), &'static str> {
    if text.starts_with('/')
        && text.len() <= 1024
        && !climbs(text)
        && !text.chars().any(char::is_control)
    {
        return Ok(());
    }
    Err("an absolute path without '..'")
}

/// The name of a storage: it may become that of a folder.
pub(super) fn storage_name(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(inner)
    {
        return Ok(());
    }
    Err("1 to 63 letters, digits, dashes, underscores and dots, first a letter or digit")
}

/// A folder of the board.
pub(super) fn storage_path(text: &str) -> Result<(), &'static str> {
    let below_root = text.split('/').any(|part| !part.is_empty() && part != ".");
    if below_root { absolute_path(text) } else { Err("an absolute path other than /") }
}

/// A block device of the board.
pub(super) fn storage_device(text: &str) -> Result<(), &'static str> {
    const TAGS: [&str; 4] = ["LABEL=", "UUID=", "PARTLABEL=", "PARTUUID="];
    let of_tag = |tag: &&str| text.strip_prefix(*tag).is_some_and(is_device_name);
    let below_dev =
        text.strip_prefix("/dev/").is_some_and(|rest| rest.split('/').any(is_device_name));
    if (below_dev && absolute_path(text).is_ok()) || TAGS.iter().any(of_tag) {
        return Ok(());
    }
    Err("a path below /dev without '..', or LABEL=, UUID=, PARTLABEL= or PARTUUID= and a name")
}

fn is_device_name(name: &str) -> bool {
    let inner = |c: char| c != '/' && !c.is_control();
    !matches!(name, "" | "." | "..") && name.len() <= 255 && name.chars().all(inner)
}

/// What a container may do with a device.
pub(super) fn permissions(text: &str) -> Result<(), &'static str> {
    if text.len() <= 3 && text.chars().all(|c| "rwm".contains(c)) {
        return Ok(());
    }
    Err("some of r, w and m")
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
