//! A connection to a broker that only listens: it says who it is and what it wants to hear, then reads.
//!
//! The client library dials by itself, from the board's own network; a scale rule's broker is dialled from its
//! environment's. So only the library's packets are used here, over any stream. Messages come unacknowledged, at
//! the lowest quality of service.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::replica::Secret;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, Login, Packet,
    PingReq, Publish, RetainForwardRule, Subscribe, SubscribeProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{self, Instant};

use super::Stream;

/// The largest message that is taken; a broker drops what is larger.
const LARGEST_MESSAGE: u32 = 1 << 20;
/// A ping goes out this often, and is answered before the next one.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Bytes of messages that may come before the broker's word on a filter: what is retained there.
const MOST_BEFORE: usize = 4 << 20;
/// Read at a time.
const CHUNK: usize = 8 << 10;

/// Whether messages count that were there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainedMessages {
    /// They come first, and are told from the others.
    Wanted,
    /// Only what is published from now on.
    Unwanted,
}

/// What a connection listens to, and as whom.
#[derive(Debug)]
pub struct Listening<'a> {
    /// The client id: one that the broker knows already ends the other's connection.
    pub client: &'a str,
    /// User and password.
    pub login: Option<(String, Secret)>,
    /// Filters for topics; a message says by position which of them it came by.
    pub filters: &'a [&'a str],
    /// Whether messages count that were there before.
    pub retained: RetainedMessages,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The positions of the filters that it came by.
    pub filters: Vec<usize>,
    /// Its topic.
    pub topic: Bytes,
    /// It is the topic's retained message, or becomes it.
    pub retained: bool,
    /// What it says.
    pub payload: Bytes,
}

/// Why nothing is heard any more.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The broker closed it.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker closed it, and said why.
    #[error("the broker ended the connection: {0:?}")]
    Ended(DisconnectReasonCode),
    /// What came is no MQTT 5.
    #[error("what the broker says is not understood: {0}")]
    Garbled(String),
    /// The broker refuses the connection.
    #[error("the broker refuses the connection: {0:?}")]
    Refused(ConnectReturnCode),
    /// The broker refuses to tell us of a filter's messages.
    #[error("the broker refuses the subscription to {0}")]
    Forbidden(String),
    /// A ping was not answered.
    #[error("the broker does not answer")]
    Silent,
}

/// A connection that listens. Ends with its value.
#[derive(Debug)]
pub struct Subscription {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    next_ping: Instant,
    unanswered: bool,
}

impl Subscription {
    /// Introduces itself on a fresh connection and subscribes. A deadline is the caller's.
    pub async fn open(
        stream: Box<dyn Stream>,
        listening: &Listening<'_>,
    ) -> Result<Self, SubscriptionError> {
        let mut this = Self {
            stream,
            buffer: BytesMut::new(),
            next_ping: Instant::now() + KEEP_ALIVE,
            unanswered: false,
        };
        this.greet(listening).await?;
        for (position, filter) in listening.filters.iter().enumerate() {
            this.subscribe(position, filter, listening.retained).await?;
        }
        // What was retained for the first filter may be in the buffer already; `next` gives it out.
        for filter in listening.filters {
            this.granted(filter).await?;
        }
        Ok(this)
    }

    /// The next message. Dropped before it is there, it may leave half a ping behind: then the connection is of no more
    /// use.
    pub async fn next(&mut self) -> Result<Message, SubscriptionError> {
        loop {
            if let Packet::Publish(publish) = self.packet().await? {
                return Ok(message(publish));
            }
        }
    }

    async fn greet(&mut self, listening: &Listening<'_>) -> Result<(), SubscriptionError> {
        let mut properties = ConnectProperties::new();
        properties.max_packet_size = Some(LARGEST_MESSAGE);
        let connect = Connect {
            keep_alive: u16::try_from(KEEP_ALIVE.as_secs() * 2).unwrap_or(u16::MAX),
            client_id: listening.client.to_owned(),
            clean_start: true,
            properties: Some(properties),
        };
        let login = listening.login.clone();
        let login = login.map(|(user, Secret(password))| Login::new(user, password));
        self.send(&Packet::Connect(connect, None, login)).await?;
        let Packet::ConnAck(answer) = self.packet().await? else {
            return Err(SubscriptionError::Garbled("it does not begin with CONNACK".to_owned()));
        };
        if answer.code == ConnectReturnCode::Success {
            return Ok(());
        }
        Err(SubscriptionError::Refused(answer.code))
    }

    async fn subscribe(
        &mut self,
        position: usize,
        filter: &str,
        retained: RetainedMessages,
    ) -> Result<(), SubscriptionError> {
        let mut wanted = Filter::new(filter, QoS::AtMostOnce);
        wanted.preserve_retain = true;
        wanted.retain_forward_rule = match retained {
            RetainedMessages::Wanted => RetainForwardRule::OnEverySubscribe,
            RetainedMessages::Unwanted => RetainForwardRule::Never,
        };
        // Comes back with each message. 0 is none.
        let id = SubscribeProperties { id: Some(position + 1), user_properties: Vec::new() };
        let mut subscribe = Subscribe::new(wanted, Some(id));
        subscribe.pkid = u16::try_from(position + 1).unwrap_or(u16::MAX);
        self.send(&Packet::Subscribe(subscribe)).await
    }

    /// Waits for the broker's word on one filter. Messages that come before it are put back in front of the buffer.
    async fn granted(&mut self, filter: &str) -> Result<(), SubscriptionError> {
        let mut before = BytesMut::new();
        loop {
            let packet = self.packet().await?;
            if let Packet::SubAck(answer) = packet {
                let granted =
                    |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                if !answer.return_codes.iter().all(granted) {
                    return Err(SubscriptionError::Forbidden(filter.to_owned()));
                }
                before.unsplit(self.buffer.split());
                self.buffer = before;
                return Ok(());
            }
            if let Packet::Publish(_) = packet {
                packet.write(&mut before, None).map_err(|error| garbled(&error))?;
            }
            if MOST_BEFORE < before.len() {
                return Err(SubscriptionError::Garbled("no word on a filter".to_owned()));
            }
        }
    }

    async fn packet(&mut self) -> Result<Packet, SubscriptionError> {
        loop {
            match Packet::read(&mut self.buffer, Some(LARGEST_MESSAGE)) {
                Ok(Packet::PingResp(_)) => self.unanswered = false,
                Ok(Packet::Disconnect(end)) => {
                    return Err(SubscriptionError::Ended(end.reason_code));
                }
                Ok(packet) => return Ok(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => self.read().await?,
                Err(error) => return Err(garbled(&error)),
            }
        }
    }

    /// Reads some bytes, or pings where none came for long.
    async fn read(&mut self) -> Result<(), SubscriptionError> {
        self.buffer.reserve(CHUNK);
        tokio::select! {
            read = self.stream.read_buf(&mut self.buffer) => match read {
                Ok(0) => return Err(SubscriptionError::Closed),
                Ok(_) => return Ok(()),
                Err(error) => return Err(SubscriptionError::Io(error)),
            },
            () = time::sleep_until(self.next_ping) => (),
        }
        if self.unanswered {
            return Err(SubscriptionError::Silent);
        }
        self.unanswered = true;
        self.next_ping += KEEP_ALIVE;
        self.send(&Packet::PingReq(PingReq)).await
    }

    async fn send(&mut self, packet: &Packet) -> Result<(), SubscriptionError> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).map_err(|error| garbled(&error))?;
        self.stream.write_all(&bytes).await.map_err(SubscriptionError::Io)?;
        self.stream.flush().await.map_err(SubscriptionError::Io)
    }
}

fn garbled(error: &mqttbytes::Error) -> SubscriptionError {
    SubscriptionError::Garbled(error.to_string())
}

fn message(publish: Publish) -> Message {
    let ids = publish.properties.map(|properties| properties.subscription_identifiers);
    Message {
        filters: ids.unwrap_or_default().into_iter().filter_map(|id| id.checked_sub(1)).collect(),
        topic: publish.topic,
        retained: publish.retain,
        payload: publish.payload,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{ConnAck, PingResp, SubAck};
    use tokio::io::DuplexStream;

    use super::*;

    /// The broker's end: reads a packet, and answers with some.
    async fn answer(end: &mut DuplexStream, buffer: &mut BytesMut, answers: &[Packet]) -> Packet {
        let packet = loop {
            match Packet::read(buffer, None) {
                Ok(packet) => break packet,
                Err(_) => assert_ne!(end.read_buf(buffer).await.unwrap(), 0),
            }
        };
        let mut bytes = BytesMut::new();
        for packet in answers {
            packet.write(&mut bytes, None).unwrap();
        }
        end.write_all(&bytes).await.unwrap();
        packet
    }

    fn granted(code: SubscribeReasonCode) -> Packet {
        Packet::SubAck(SubAck { pkid: 1, return_codes: vec![code], properties: None })
    }

    fn accepted(code: ConnectReturnCode) -> Packet {
        Packet::ConnAck(ConnAck { session_present: false, code, properties: None })
    }

    /// Opens a subscription to `a` at a broker that answers so; gives out the broker's end too.
    async fn open(
        connack: Packet,
        suback: &[Packet],
    ) -> (Result<Subscription, SubscriptionError>, DuplexStream, BytesMut) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let listening = Listening {
            client: "me",
            login: None,
            filters: &["a"],
            retained: RetainedMessages::Wanted,
        };
        let mut buffer = BytesMut::new();
        let opened = {
            let answering = async {
                answer(&mut theirs, &mut buffer, &[connack]).await;
                answer(&mut theirs, &mut buffer, suback).await;
                std::future::pending::<()>().await;
            };
            // A broker that refuses us waits for a subscription in vain.
            tokio::select! {
                opened = Subscription::open(Box::new(ours), &listening) => opened,
                () = answering => unreachable!(),
            }
        };
        (opened, theirs, buffer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_gone_without_a_word_is_found_out() {
        let suback = [granted(SubscribeReasonCode::Success(QoS::AtMostOnce))];
        let (opened, mut theirs, mut buffer) =
            open(accepted(ConnectReturnCode::Success), &suback).await;
        let mut subscription = opened.unwrap();
        let answering = async {
            let ping = answer(&mut theirs, &mut buffer, &[Packet::PingResp(PingResp)]).await;
            assert_eq!(ping, Packet::PingReq(PingReq));
            answer(&mut theirs, &mut buffer, &[]).await;
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        let end = tokio::select! {
            end = subscription.next() => end.unwrap_err(),
            () = answering => unreachable!(),
        };
        assert!(matches!(end, SubscriptionError::Silent), "{end}");
        assert_eq!(began.elapsed(), KEEP_ALIVE * 3, "one ping is answered, one is not");
    }

    #[tokio::test]
    async fn a_message_that_comes_before_the_word_on_its_filter_is_not_lost() {
        let retained = Packet::Publish(Publish::new("a", QoS::AtMostOnce, "7", None));
        let suback = [retained, granted(SubscribeReasonCode::Success(QoS::AtMostOnce))];
        let (opened, _theirs, _) = open(accepted(ConnectReturnCode::Success), &suback).await;
        assert_eq!(opened.unwrap().next().await.unwrap().payload, "7");
    }

    #[tokio::test]
    async fn a_broker_that_refuses_says_what() {
        let (opened, ..) = open(accepted(ConnectReturnCode::NotAuthorized), &[]).await;
        let told = opened.unwrap_err().to_string();
        assert_eq!(told, "the broker refuses the connection: NotAuthorized");
        let refused = [granted(SubscribeReasonCode::NotAuthorized)];
        let (opened, ..) = open(accepted(ConnectReturnCode::Success), &refused).await;
        assert_eq!(opened.unwrap_err().to_string(), "the broker refuses the subscription to a");
    }
}
