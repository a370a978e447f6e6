//! Reads `configuration.ingress`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::app::{
    ClientCertificates, Cors, CustomDomain, DomainBinding, Ingress, IpAction, IpRestriction,
    PortMapping, RevisionsMode, TrafficEntry,
};
use super::fields::Fields;
use super::findings::quoted;
use super::rules;
use super::support::Place;
use super::template::check_unique;
use crate::ports;
use crate::reason::Reason;
use crate::route::Transport;

/// ACA's own bound.
const MAX_ADDITIONAL_PORTS: usize = 5;

/// Reads `ingress`; a missing one is off.
pub(super) fn read(configuration: &mut Fields<'_>, mode: RevisionsMode) -> Option<Ingress> {
    const TRANSPORTS: &[(&str, Transport)] = &[
        ("auto", Transport::Auto),
        ("http", Transport::Http),
        ("http2", Transport::Http2),
        ("tcp", Transport::Tcp),
    ];
    const CERTIFICATES: &[(&str, ClientCertificates)] = &[
        ("ignore", ClientCertificates::Ignore),
        ("accept", ClientCertificates::Accept),
        ("require", ClientCertificates::Require),
    ];
    let mut fields = configuration.inner("ingress", Place::Ingress)?;
    let external = fields.flag("external").unwrap_or(false);
    let transport = fields.choice("transport", TRANSPORTS).unwrap_or_default();
    let client_certificates =
        fields.choice("clientCertificateMode", CERTIFICATES).unwrap_or_default();
    if client_certificates != ClientCertificates::Ignore {
        fields.later("mtls", "clientCertificateMode");
    }
    let ingress = Ingress {
        external,
        target_port: target_port(&mut fields, transport),
        exposed_port: exposed_port(&mut fields, transport),
        transport,
        traffic: traffic(&mut fields),
        custom_domains: custom_domains(&mut fields),
        allow_insecure: allow_insecure(&mut fields, transport),
        ip_restrictions: ip_restrictions(&mut fields),
        sticky: sticky(&mut fields, mode, transport),
        client_certificates,
        cors: cors(&mut fields),
        additional_ports: additional_ports(&mut fields, external),
    };
    if transport == Transport::Tcp {
        check_exposed(&fields, ingress.exposed_port, ingress.target_port);
    }
    let exposed: Vec<u16> = ports::of(&ingress).iter().map(|port| port.exposed).collect();
    if exposed.iter().collect::<BTreeSet<_>>().len() != exposed.len() {
        let message = "each exposedPort is given once";
        fields.error("additionalPortMappings", Reason::InvalidValue, message);
    }
    fields.close();
    Some(ingress)
}

fn exposed_port(fields: &mut Fields<'_>, transport: Transport) -> u16 {
    let port = fields.port("exposedPort", 0).unwrap_or(0);
    if port != 0 && transport != Transport::Tcp {
        let message = "without effect: HTTP is served at its own ports; see transport: tcp";
        fields.warning("exposedPort", Reason::Unsupported, message);
    }
    port
}

fn target_port(fields: &mut Fields<'_>, transport: Transport) -> u16 {
    let given = fields.has("targetPort");
    let port = fields.port("targetPort", 0);
    if transport == Transport::Tcp && (!given || port == Some(0)) {
        fields.missing("targetPort", "the port that the app listens on");
    }
    port.unwrap_or(0)
}

/// Checks the port that others use, which is the target port where none is given.
fn check_exposed(fields: &Fields<'_>, exposed: u16, target: u16) {
    let (key, port) = match exposed {
        0 => ("targetPort", target),
        exposed => ("exposedPort", exposed),
    };
    if ports::HTTP.contains(&port) {
        let message = format!("{port} belongs to HTTP; give TCP another exposedPort");
        fields.error(key, Reason::InvalidValue, message);
    }
}

fn allow_insecure(fields: &mut Fields<'_>, transport: Transport) -> bool {
    let allow = fields.flag("allowInsecure");
    if allow == Some(false) && transport != Transport::Tcp {
        fields.later("tls", "allowInsecure");
    }
    allow.unwrap_or(false)
}

fn traffic(fields: &mut Fields<'_>) -> Vec<TrafficEntry> {
    let inners = fields.each("traffic", Place::Traffic);
    let entries: Vec<TrafficEntry> = inners.into_iter().map(traffic_entry).collect();
    if entries.is_empty() {
        return entries;
    }
    let sum: u32 = entries.iter().map(|entry| entry.weight).sum();
    if sum != 100 {
        let message = format!("the weights must add up to 100, and add up to {sum}");
        fields.error("traffic", Reason::InvalidValue, message);
    }
    check_unique(fields, "traffic", entries.iter().filter_map(|entry| entry.label.as_deref()));
    entries
}

fn traffic_entry(mut fields: Fields<'_>) -> TrafficEntry {
    let named = fields.has("revisionName");
    let revision = fields.parsed("revisionName");
    let latest = fields.flag("latestRevision").unwrap_or(false);
    let weight = fields.count("weight", 0..=100).unwrap_or(0);
    let label = fields.ruled("label", rules::traffic_label);
    if latest && revision.is_some() {
        let message = "revisionName and latestRevision: true exclude one another";
        fields.error("revisionName", Reason::InvalidValue, message);
    }
    if !latest && !named && label.is_none() && !fields.has("label") {
        fields.missing(
            "revisionName",
            "an entry names a revision, a label, or has latestRevision: true",
        );
    }
    fields.close();
    TrafficEntry { revision, latest, weight, label }
}

fn custom_domains(fields: &mut Fields<'_>) -> Vec<CustomDomain> {
    const BINDINGS: &[(&str, DomainBinding)] = &[
        ("Disabled", DomainBinding::Disabled),
        ("SniEnabled", DomainBinding::SniEnabled),
        ("Auto", DomainBinding::Auto),
    ];
    let read = |mut inner: Fields<'_>| {
        if !inner.has("name") {
            inner.missing("name", "the host name");
        }
        let name = inner.ruled("name", rules::host_name);
        let binding = inner.choice("bindingType", BINDINGS);
        if matches!(binding, Some(DomainBinding::SniEnabled | DomainBinding::Auto)) {
            inner.later("domainTls", "bindingType");
        }
        let certificate_id = inner.name("certificateId");
        inner.close();
        Some(CustomDomain { name: name?.to_ascii_lowercase(), binding, certificate_id })
    };
    let domains: Vec<CustomDomain> =
        fields.each("customDomains", Place::CustomDomain).into_iter().filter_map(read).collect();
    check_unique(fields, "customDomains", domains.iter().map(|domain| domain.name.as_str()));
    domains
}

fn ip_restrictions(fields: &mut Fields<'_>) -> Vec<IpRestriction> {
    let inners = fields.each("ipSecurityRestrictions", Place::IpRestriction);
    let rules: Vec<IpRestriction> = inners.into_iter().filter_map(ip_restriction).collect();
    let mixed = rules.windows(2).any(|two| two[0].action != two[1].action);
    if mixed {
        let message = "all rules of an app are Allow, or all are Deny";
        fields.error("ipSecurityRestrictions", Reason::InvalidValue, message);
    }
    if !rules.is_empty() {
        fields.later("ipRestrictions", "ipSecurityRestrictions");
    }
    rules
}

fn ip_restriction(mut fields: Fields<'_>) -> Option<IpRestriction> {
    const ACTIONS: &[(&str, IpAction)] = &[("Allow", IpAction::Allow), ("Deny", IpAction::Deny)];
    for (key, what) in [
        ("name", "the rule's name"),
        ("ipAddressRange", "the addresses, such as 192.168.1.0/24"),
        ("action", "Allow or Deny"),
    ] {
        if !fields.has(key) {
            fields.missing(key, what);
        }
    }
    let name = fields.name("name").unwrap_or_default();
    let description = fields.name("description").unwrap_or_default();
    let range = fields.name("ipAddressRange").and_then(|text| {
        let alone = || text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
        let range = text.parse::<Ipv4Net>().ok().or_else(alone).map(|net| net.trunc());
        if range.is_none() {
            let message = format!("{} is not an IPv4 range such as 192.168.1.0/24", quoted(&text));
            fields.error("ipAddressRange", Reason::InvalidValue, message);
        }
        range
    });
    let action = fields.choice("action", ACTIONS);
    fields.close();
    Some(IpRestriction { name, description, range: range?, action: action? })
}

fn sticky(fields: &mut Fields<'_>, mode: RevisionsMode, transport: Transport) -> bool {
    let Some(mut inner) = fields.inner("stickySessions", Place::StickySessions) else {
        return false;
    };
    let sticky = inner.choice("affinity", &[("sticky", true), ("none", false)]).unwrap_or(false);
    if sticky {
        if mode != RevisionsMode::Single || transport == Transport::Tcp {
            let message = "sticky needs activeRevisionsMode: Single and an HTTP transport";
            inner.error("affinity", Reason::InvalidValue, message);
        }
        inner.later("sticky", "affinity");
    }
    inner.close();
    sticky
}

fn cors(fields: &mut Fields<'_>) -> Option<Cors> {
    let mut inner = fields.inner("corsPolicy", Place::Cors)?;
    if !inner.has("allowedOrigins") {
        inner.missing("allowedOrigins", "the origins, or *");
    }
    let cors = Cors {
        allowed_origins: inner.texts("allowedOrigins"),
        allowed_methods: inner.texts("allowedMethods"),
        allowed_headers: inner.texts("allowedHeaders"),
        expose_headers: inner.texts("exposeHeaders"),
        max_age_secs: inner.count("maxAge", 0..=u32::MAX),
        allow_credentials: inner.flag("allowCredentials").unwrap_or(false),
    };
    inner.close();
    fields.later("cors", "corsPolicy");
    Some(cors)
}

fn additional_ports(fields: &mut Fields<'_>, app_external: bool) -> Vec<PortMapping> {
    const KEY: &str = "additionalPortMappings";
    let inners = fields.each(KEY, Place::PortMapping);
    if MAX_ADDITIONAL_PORTS < inners.len() {
        let message =
            format!("at most {MAX_ADDITIONAL_PORTS} additional ports, found {}", inners.len());
        fields.error(KEY, Reason::InvalidValue, message);
    }
    let read = |inner| port_mapping(inner, app_external);
    let ports: Vec<PortMapping> = inners.into_iter().filter_map(read).collect();
    let distinct: BTreeSet<u16> = ports.iter().map(|port| port.target_port).collect();
    if distinct.len() != ports.len() {
        fields.error(KEY, Reason::InvalidValue, "each targetPort is given once");
    }
    ports
}

fn port_mapping(mut fields: Fields<'_>, app_external: bool) -> Option<PortMapping> {
    if !fields.has("targetPort") {
        fields.missing("targetPort", "the port that the app listens on");
    }
    let external = fields.flag("external").unwrap_or(false);
    if external && !app_external {
        let message = "external: true needs ingress.external: true";
        fields.error("external", Reason::InvalidValue, message);
    }
    let target_port = fields.port("targetPort", 1);
    let exposed_port = fields.port("exposedPort", 0).filter(|port| *port != 0);
    check_exposed(&fields, exposed_port.unwrap_or(0), target_port.unwrap_or(0));
    fields.close();
    let target_port = target_port?;
    Some(PortMapping { external, target_port, exposed_port: exposed_port.unwrap_or(target_port) })
}
