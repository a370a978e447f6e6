//! What is said to a query: the zone's own answer, or that others must be asked. Pure but for the codec.

use std::net::Ipv4Addr;

use domain::zone::Zone;
use simple_dns::rdata::{A, OPT, RData, SRV};
use simple_dns::{CLASS, Label, Name, Packet, PacketFlag, QCLASS, QTYPE, ResourceRecord, TYPE};

use super::names::{Meaning, look_up};
use super::question::{Incoming, Query};

/// Seconds that our records may be kept: replicas come and go.
const TTL: u32 = 5;

/// What we take by UDP, told to clients that speak EDNS.
const UDP_SIZE: u16 = 1232;

/// The most replicas in one answer: what still fits into an answer by TCP.
const MAX_REPLICAS: usize = 200;

const A_KIND: u16 = 1;
const SRV_KIND: u16 = 33;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

/// Reply codes.
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;

/// Flags of the third and fourth byte of a header.
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_AVAILABLE: u8 = 0x80;

/// How a query came, which bounds how much may go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Say this.
    Reply(Vec<u8>),
    /// Ask a name server, with the very same bytes.
    Forward(Query),
    /// Say nothing.
    Ignore,
}

/// Decides what to do with a message.
pub(super) fn decide(zone: &Zone, message: &[u8], transport: Transport) -> Verdict {
    let query = match Incoming::read(message) {
        Incoming::Query(query) => query,
        Incoming::Bad { id, code } => return Verdict::Reply(error(id, code)),
        Incoming::Noise => return Verdict::Ignore,
    };
    let ours = query.name.as_deref().filter(|_| [INTERNET, ANY].contains(&query.class));
    let reply = match ours.map_or(Meaning::Elsewhere, |name| look_up(zone, name)) {
        Meaning::Elsewhere => return Verdict::Forward(query),
        Meaning::Unknown => bare(&query, message, AUTHORITATIVE, NAME_ERROR),
        Meaning::Addresses(addresses) if wants(&query, A_KIND) && !addresses.is_empty() => {
            with_addresses(&query, &addresses)
        }
        Meaning::Services { port, targets } if wants(&query, SRV_KIND) && !targets.is_empty() => {
            with_services(&query, port, &targets)
        }
        Meaning::Addresses(_) | Meaning::Services { .. } | Meaning::Nothing => {
            bare(&query, message, AUTHORITATIVE, 0)
        }
    };
    if transport == Transport::Udp && query.udp_limit() < reply.len() {
        return Verdict::Reply(bare(&query, message, AUTHORITATIVE | TRUNCATED, 0));
    }
    Verdict::Reply(reply)
}

/// What is said when no name server answers.
pub(super) fn failure(query: &Query, message: &[u8]) -> Vec<u8> {
    bare(query, message, 0, SERVER_FAILURE)
}

/// What is said by UDP when an answer is too long for it.
pub(super) fn truncated(query: &Query, message: &[u8]) -> Vec<u8> {
    bare(query, message, TRUNCATED, 0)
}

fn wants(query: &Query, kind: u16) -> bool {
    [kind, ANY].contains(&query.kind)
}

/// A reply without records: the header, the question as it came, and EDNS if the client speaks it.
fn bare(query: &Query, message: &[u8], flags: u8, code: u8) -> Vec<u8> {
    let question = message.get(12..query.end).unwrap_or_default();
    let recursion_desired = u8::from(query.recursion_desired);
    let mut reply = query.id.to_be_bytes().to_vec();
    reply.extend([RESPONSE | flags | recursion_desired, RECURSION_AVAILABLE | code]);
    reply.extend([0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
    reply.extend(question);
    if query.edns.is_some() {
        reply.extend([0, 0, 41]);
        reply.extend(UDP_SIZE.to_be_bytes());
        reply.extend([0; 6]);
    }
    reply
}

/// A reply to what could not be read.
fn error(id: u16, code: u8) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    vec![a, b, RESPONSE, RECURSION_AVAILABLE | code, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn with_addresses(query: &Query, addresses: &[Ipv4Addr]) -> Vec<u8> {
    encode(query, |packet, name| {
        packet.answers =
            addresses.iter().take(MAX_REPLICAS).map(|at| a(name.clone(), *at)).collect();
    })
}

fn with_services(query: &Query, port: u16, targets: &[(String, Ipv4Addr)]) -> Vec<u8> {
    encode(query, |packet, name| {
        for (target, address) in targets.iter().take(MAX_REPLICAS) {
            // Our own names are well formed, unless a suffix makes them too long: such a replica is left out.
            let Ok(target) = Name::new(target).map(Name::into_owned) else { continue };
            packet.additional_records.push(a(target.clone(), *address));
            let service = RData::SRV(SRV { priority: 0, weight: 0, port, target });
            packet.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, TTL, service));
        }
    })
}

fn a(name: Name<'static>, address: Ipv4Addr) -> ResourceRecord<'static> {
    ResourceRecord::new(name, CLASS::IN, TTL, RData::A(A { address: address.into() }))
}

/// A reply with the records that `fill` gives it, under the name as the client wrote it.
fn encode(query: &Query, fill: impl FnOnce(&mut Packet<'static>, &Name<'static>)) -> Vec<u8> {
    let labels: Vec<Label<'static>> =
        query.labels.iter().map(|label| Label::new_unchecked(label.clone())).collect();
    let name = Name::new_with_labels(&labels);
    let mut packet = Packet::new_reply(query.id);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.recursion_desired {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let kind = QTYPE::try_from(query.kind).unwrap_or(QTYPE::TYPE(TYPE::A));
    let class = QCLASS::try_from(query.class).unwrap_or(QCLASS::CLASS(CLASS::IN));
    packet.questions.push(simple_dns::Question::new(name.clone(), kind, class, false));
    if query.edns.is_some() {
        *packet.opt_mut() =
            Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_SIZE, version: 0 });
    }
    fill(&mut packet, &name);
    packet.build_bytes_vec_compressed().unwrap_or_else(|_| error(query.id, SERVER_FAILURE))
}
