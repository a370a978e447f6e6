//! Why there is no connection, told apart by what a person would do about it.

use std::io;

use domain::reason::Reason;
use domain::replica::Trouble;
use rumqttc::TlsError;
use rumqttc::v5::{ConnectionError, StateError, mqttbytes};

use crate::broker::AccessError;
use crate::report::Chain;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// A file of the configuration does not serve.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nobody listens there, or there is no way there.
    #[error("no way to the broker")]
    Unreachable(#[source] io::Error),
    /// No answer within the deadline.
    #[error("no answer within the deadline")]
    Silent,
    /// The connection failed, or ended.
    #[error("{0}")]
    Connection(Box<ConnectionError>),
    /// More documents at once than we said we take.
    #[error("the broker sends more at once than it may")]
    Overrun,
    /// The loop does not answer any more: the agent is about to end.
    #[error("the agent is stopping")]
    LoopGone,
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(Box::new(error))
    }
}

impl LinkError {
    /// It failed before a CONNECT can have reached a broker, or the broker said no: no will was taken, and the epoch
    /// that was asked for was never used.
    pub(super) fn is_before_connect(&self) -> bool {
        match self {
            Self::Access(_) | Self::Unreachable(_) => true,
            Self::Silent | Self::Overrun | Self::LoopGone => false,
            Self::Connection(error) => matches!(
                **error,
                ConnectionError::Io(_)
                    | ConnectionError::Tls(_)
                    | ConnectionError::ConnectionRefused(_)
            ),
        }
    }

    /// Nobody answered at all.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Connection(error) => matches!(**error, ConnectionError::Timeout(_)),
            Self::Access(_) | Self::Unreachable(_) | Self::Overrun | Self::LoopGone => false,
        }
    }

    /// What the device's status says.
    pub(super) fn trouble(&self) -> Trouble {
        let reason = match self {
            Self::Access(AccessError::File { .. } | AccessError::Pem { .. }) => {
                Reason::BrokerFileUnreadable
            }
            Self::Access(AccessError::Tls(_)) => Reason::BrokerCertificate,
            Self::Unreachable(_) | Self::Silent | Self::Overrun | Self::LoopGone => {
                Reason::BrokerUnreachable
            }
            Self::Connection(error) => reason(error),
        };
        Trouble { reason, details: Chain(self).to_string() }
    }
}

fn reason(error: &ConnectionError) -> Reason {
    if is_tls(error) {
        return Reason::BrokerCertificate;
    }
    if matches!(error, ConnectionError::ConnectionRefused(_)) {
        return Reason::BrokerRefused;
    }
    Reason::BrokerUnreachable
}

/// The handshake failed for a certificate, or an alert about ours came after it, as TLS 1.3 has it.
fn is_tls(error: &ConnectionError) -> bool {
    if let ConnectionError::Tls(TlsError::Io(source))
    | ConnectionError::MqttState(
        StateError::Io(source) | StateError::Deserialization(mqttbytes::Error::Io(source)),
    ) = error
    {
        return source
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>);
    }
    matches!(error, ConnectionError::Tls(_))
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;

    use super::*;

    #[track_caller]
    fn check(error: ConnectionError, reason: Reason, before_connect: bool) {
        let error = LinkError::from(error);
        assert_eq!(
            (error.trouble().reason, error.is_before_connect()),
            (reason, before_connect),
            "{error}"
        );
    }

    #[test]
    fn failures_are_told_apart_by_what_a_person_would_do() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        check(ConnectionError::Io(refused()), Reason::BrokerUnreachable, true);
        check(
            ConnectionError::MqttState(StateError::ConnectionAborted),
            Reason::BrokerUnreachable,
            false,
        );
        let code = ConnectReturnCode::BadUserNamePassword;
        check(ConnectionError::ConnectionRefused(code), Reason::BrokerRefused, true);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let late = StateError::Deserialization(mqttbytes::Error::Io(io::Error::other(alert)));
        check(ConnectionError::MqttState(late), Reason::BrokerCertificate, false);
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        check(
            ConnectionError::Tls(TlsError::Io(io::Error::other(unknown))),
            Reason::BrokerCertificate,
            true,
        );
        check(ConnectionError::Tls(TlsError::Io(refused())), Reason::BrokerUnreachable, true);
    }
}
