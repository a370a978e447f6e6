//! 64-bit integers as strings, as protobuf's JSON has them: a double would lose the lower digits.

use serde::{Deserialize, Deserializer, Serializer, de};

pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use crate::v1::Event;

    #[test]
    fn every_field_is_present_and_wide_numbers_are_strings() {
        let json = serde_json::to_value(Event { id: u64::MAX, ..Event::default() }).unwrap();
        assert_eq!(json["id"], "18446744073709551615");
        assert_eq!(json.as_object().unwrap().len(), 7);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap().id, u64::MAX);
    }
}
