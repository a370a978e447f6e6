//! How long a call may take: what the caller said, and never longer than the agent's own bound.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

/// The loop answers within a round; a round that takes longer than this hangs, and the caller shall know.
const LONGEST: Duration = Duration::from_secs(30);

/// An import takes as long as its archive: a large one over USB 2 into an SD card is done in a quarter of an hour.
pub(super) const LONGEST_IMPORT: Duration = Duration::from_mins(30);

/// The time that a call has. Unreadable headers count as none.
pub(super) fn of(metadata: &MetadataMap) -> Duration {
    asked(metadata).map_or(LONGEST, |asked| asked.min(LONGEST))
}

/// Awaits `answer` for as long as the call may take.
pub(super) async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the agent did not answer within {} s",
            time.as_secs()
        ))),
    }
}

/// `grpc-timeout`: up to eight digits and a unit.
fn asked(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(count.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Duration) {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        assert_eq!(of(&metadata), expected, "{header}");
    }

    #[test]
    fn the_shorter_of_the_two_deadlines_holds() {
        check("100m", Duration::from_millis(100));
        check("2S", Duration::from_secs(2));
        check("5000000u", Duration::from_secs(5));
        check("99999999H", LONGEST);
        for garbage in ["", "S", "x", "1", "-1S", "1.5S", "18446744073709551615H"] {
            check(garbage, LONGEST);
        }
        assert_eq!(of(&MetadataMap::new()), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_ends_with_deadline_exceeded() {
        let never = std::future::pending::<Result<(), Status>>();
        let status = within(Duration::from_secs(2), never).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.message(), "the agent did not answer within 2 s");
    }
}
