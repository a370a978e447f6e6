//! What is known of time zones. Knows the format of a zone's file (`TZif`, RFC 9636), and never where the files are.

use std::collections::{BTreeMap, BTreeSet};

/// A time zone: what its clocks have shown and will show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Utc,
    Local(tz::TimeZone),
}

/// The bytes are no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no time zone: {0}")]
pub struct ZoneUnreadable(String);

impl Zone {
    /// Universal time, which no database is needed for.
    pub const UTC: &'static Self = &Self(Kind::Utc);

    /// The zone that a compiled file of the time zone database tells of.
    pub fn read(bytes: &[u8]) -> Result<Self, ZoneUnreadable> {
        let zone = tz::TimeZone::from_tz_data(bytes);
        zone.map(|zone| Self(Kind::Local(zone))).map_err(|error| ZoneUnreadable(error.to_string()))
    }

    /// Seconds that its clocks are ahead of UTC, `at` seconds after 1970.
    pub(super) fn ahead(&self, at: i64) -> i64 {
        match &self.0 {
            Kind::Utc => 0,
            Kind::Local(zone) => {
                let known = zone.find_local_time_type(at).ok().or_else(|| {
                    // The file says nothing of the time after its last change: that one is still in force.
                    let last = zone.as_ref().transitions().last()?;
                    zone.as_ref().local_time_types().get(last.local_time_type_index())
                });
                known.map_or(0, |kind| i64::from(kind.ut_offset()))
            }
        }
    }
}

/// The zones that are known, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zones(BTreeMap<String, Zone>);

impl Zones {
    /// The zone of this name, as far as it is known. UTC always is.
    pub fn of(&self, name: &str) -> Option<&Zone> {
        match name {
            "UTC" | "Etc/UTC" => Some(Zone::UTC),
            _ => self.0.get(name),
        }
    }

    /// Forgets all but these.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Adds what is known of one.
    pub fn learn(&mut self, name: String, zone: Zone) {
        self.0.insert(name, zone);
    }
}
