//! The rules of the table `inet skerry`, as text for `nft -f -`.
//!
//! ```text
//!   LAN ──▶ forward ──▶ sk-a          answers only
//!   sk-a ─▶ forward ──▶ LAN           all, masqueraded
//!   sk-a ─▶ forward ──▶ sk-b          nothing
//!   sk-a ─▶ input   ──▶ its .1        DNS, ingress and ports of its apps, ping, what `allow_host` names; the rest is refused
//!   others ▶ input  ──▶ .1            nothing
//! ```
//!
//! A pure function: it neither runs `nft` nor knows what stands. Accepting here never overrules another table: a
//! packet passes only if every table lets it pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::config::{HostPort, Protocol};

/// The table, and the only one that is touched.
pub(super) const TABLE: &str = "skerry";

/// An empty chain that says: forwarding was off, and Skerry turned it on. Table and kernel setting both end with a
/// reboot, so the mark is there exactly as long as it is true.
pub(super) const FORWARDING_MARK: &str = "forwarding_turned_on";

/// The port of the DNS server.
pub(super) const DNS: u16 = 53;

/// One environment, as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    pub(super) bridge: String,
    pub(super) subnet: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    /// Ports of the gateway that another port of the board serves.
    pub(super) redirects: BTreeMap<u16, u16>,
    /// TCP ports of apps on the gateway.
    pub(super) ports: BTreeSet<u16>,
}

/// All that the rules are made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rules {
    pub(super) gates: Vec<Gate>,
    /// TCP ports of the ingress on every gateway.
    pub(super) ingress: BTreeSet<u16>,
    /// Services of the board that containers may reach.
    pub(super) allow_host: Vec<HostPort>,
    /// Forwarding was off before Skerry came: then nothing but Skerry's traffic may make use of it.
    pub(super) forwarding_is_ours: bool,
}

impl Rules {
    /// The text that replaces the whole table in one step; without environments, the text that removes it.
    pub(super) fn render(&self) -> String {
        // Naming the table before deleting it makes the deletion right whether it is there or not.
        let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
        if self.gates.is_empty() {
            return text;
        }
        text = text + "table inet " + TABLE + " {\n";
        if self.forwarding_is_ours {
            chain(&mut text, FORWARDING_MARK, &[]);
        }
        if self.gates.iter().any(|gate| !gate.redirects.is_empty()) {
            chain(&mut text, "prerouting", &self.prerouting());
        }
        chain(&mut text, "input", &self.input());
        chain(&mut text, "from_containers", &self.to_board());
        chain(&mut text, "forward", &self.forward());
        chain(&mut text, "leaving", &self.leaving());
        chain(&mut text, "postrouting", &self.postrouting());
        text.push_str("}\n");
        text
    }

    fn prerouting(&self) -> Vec<String> {
        let mut rules = vec!["type nat hook prerouting priority -100; policy accept;".to_owned()];
        for Gate { bridge, gateway, redirects, .. } in &self.gates {
            for (port, to) in redirects {
                rules.extend(["udp", "tcp"].map(|protocol| {
                    format!(
                        "iifname \"{bridge}\" ip daddr {gateway} {protocol} dport {port} redirect to :{to}"
                    )
                }));
            }
        }
        rules
    }

    fn input(&self) -> Vec<String> {
        let mut rules = vec!["type filter hook input priority 0; policy accept;".to_owned()];
        rules.extend(self.gates.iter().map(|Gate { bridge, gateway, .. }| {
            format!("ip daddr {gateway} iifname != {{ \"lo\", \"{bridge}\" }} drop")
        }));
        rules.push("iifname \"sk-*\" goto from_containers".to_owned());
        rules
    }

    fn to_board(&self) -> Vec<String> {
        let mut rules: Vec<String> = self.gates.iter().map(spoofed).collect();
        rules.push("ct state established,related accept".to_owned());
        rules.push("meta l4proto icmp accept".to_owned());
        for gate in &self.gates {
            let Gate { bridge, gateway, .. } = gate;
            for (protocol, ports) in [("udp", self.udp(gate)), ("tcp", self.tcp(gate))] {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                rules.push(format!(
                    "iifname \"{bridge}\" ip daddr {gateway} {protocol} dport {{ {} }} accept",
                    ports.join(", ")
                ));
            }
        }
        // Refused and not dropped, so that an app fails at once and not after a timeout.
        rules.push("meta l4proto tcp reject with tcp reset".to_owned());
        rules.push("reject with icmpx type admin-prohibited".to_owned());
        rules
    }

    fn forward(&self) -> Vec<String> {
        let mut rules = vec![
            "type filter hook forward priority 0; policy accept;".to_owned(),
            "iifname \"sk-*\" goto leaving".to_owned(),
            "oifname \"sk-*\" ct state established,related accept".to_owned(),
            "oifname \"sk-*\" drop".to_owned(),
        ];
        if self.forwarding_is_ours {
            rules.push("drop".to_owned());
        }
        rules
    }

    fn leaving(&self) -> Vec<String> {
        let mut rules: Vec<String> = self.gates.iter().map(spoofed).collect();
        // With br_netfilter, traffic inside one bridge comes by here too.
        rules.extend(self.gates.iter().map(|Gate { bridge, .. }| {
            format!("iifname \"{bridge}\" oifname \"{bridge}\" accept")
        }));
        rules.push("oifname \"sk-*\" drop".to_owned());
        rules.push("accept".to_owned());
        rules
    }

    fn postrouting(&self) -> Vec<String> {
        let mut rules = vec![
            "type nat hook postrouting priority 100; policy accept;".to_owned(),
            "oifname \"lo\" accept".to_owned(),
            "oifname \"sk-*\" accept".to_owned(),
        ];
        rules.extend(self.gates.iter().map(|gate| format!("ip saddr {} masquerade", gate.subnet)));
        rules
    }

    /// The UDP ports that a gateway offers.
    fn udp(&self, gate: &Gate) -> BTreeSet<u16> {
        let mut ports = self.allowed(Protocol::Udp);
        ports.insert(DNS);
        ports.extend(gate.redirects.values());
        ports
    }

    /// The TCP ports that a gateway offers.
    fn tcp(&self, gate: &Gate) -> BTreeSet<u16> {
        let mut ports = self.allowed(Protocol::Tcp);
        ports.insert(DNS);
        ports.extend(&self.ingress);
        ports.extend(gate.redirects.values());
        ports.extend(&gate.ports);
        ports
    }

    fn allowed(&self, protocol: Protocol) -> BTreeSet<u16> {
        let of_protocol = self.allow_host.iter().filter(|allowed| allowed.protocol == protocol);
        of_protocol.map(|allowed| allowed.port).collect()
    }
}

/// A container speaks for its own subnet only.
fn spoofed(Gate { bridge, subnet, .. }: &Gate) -> String {
    format!("iifname \"{bridge}\" ip saddr != {subnet} drop")
}

fn chain(text: &mut String, name: &str, rules: &[String]) {
    let lines: Vec<String> = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    write!(text, "\tchain {name} {{\n{}\t}}\n", lines.concat())
        .expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn gate(bridge: &str, third: u8) -> Gate {
        let subnet = Ipv4Net::new_assert([10, 213, third, 0].into(), 24);
        let gateway = [10, 213, third, 1].into();
        let (redirects, ports) = (BTreeMap::new(), BTreeSet::new());
        Gate { bridge: bridge.to_owned(), subnet, gateway, redirects, ports }
    }

    #[test]
    fn two_environments_are_closed_to_each_other_and_open_to_the_world() {
        let rules = Rules {
            gates: vec![gate("sk-default", 0), Gate { ports: [5432].into(), ..gate("sk-lab", 1) }],
            ingress: [80].into(),
            allow_host: vec![HostPort { protocol: Protocol::Tcp, port: 1883 }],
            forwarding_is_ours: false,
        };
        expect![[r#"
            table inet skerry
            delete table inet skerry
            table inet skerry {
            	chain input {
            		type filter hook input priority 0; policy accept;
            		ip daddr 10.213.0.1 iifname != { "lo", "sk-default" } drop
            		ip daddr 10.213.1.1 iifname != { "lo", "sk-lab" } drop
            		iifname "sk-*" goto from_containers
            	}
            	chain from_containers {
            		iifname "sk-default" ip saddr != 10.213.0.0/24 drop
            		iifname "sk-lab" ip saddr != 10.213.1.0/24 drop
            		ct state established,related accept
            		meta l4proto icmp accept
            		iifname "sk-default" ip daddr 10.213.0.1 udp dport { 53 } accept
            		iifname "sk-default" ip daddr 10.213.0.1 tcp dport { 53, 80, 1883 } accept
            		iifname "sk-lab" ip daddr 10.213.1.1 udp dport { 53 } accept
            		iifname "sk-lab" ip daddr 10.213.1.1 tcp dport { 53, 80, 1883, 5432 } accept
            		meta l4proto tcp reject with tcp reset
            		reject with icmpx type admin-prohibited
            	}
            	chain forward {
            		type filter hook forward priority 0; policy accept;
            		iifname "sk-*" goto leaving
            		oifname "sk-*" ct state established,related accept
            		oifname "sk-*" drop
            	}
            	chain leaving {
            		iifname "sk-default" ip saddr != 10.213.0.0/24 drop
            		iifname "sk-lab" ip saddr != 10.213.1.0/24 drop
            		iifname "sk-default" oifname "sk-default" accept
            		iifname "sk-lab" oifname "sk-lab" accept
            		oifname "sk-*" drop
            		accept
            	}
            	chain postrouting {
            		type nat hook postrouting priority 100; policy accept;
            		oifname "lo" accept
            		oifname "sk-*" accept
            		ip saddr 10.213.0.0/24 masquerade
            		ip saddr 10.213.1.0/24 masquerade
            	}
            }
        "#]]
        .assert_eq(&rules.render());
    }

    #[test]
    fn forwarding_that_skerry_turned_on_serves_skerry_only_and_a_taken_port_is_led_elsewhere() {
        let mut gate = gate("sk-default", 0);
        gate.redirects.insert(53, 40053);
        let rules = Rules { gates: vec![gate], forwarding_is_ours: true, ..Rules::default() };
        expect![[r#"
            table inet skerry
            delete table inet skerry
            table inet skerry {
            	chain forwarding_turned_on {
            	}
            	chain prerouting {
            		type nat hook prerouting priority -100; policy accept;
            		iifname "sk-default" ip daddr 10.213.0.1 udp dport 53 redirect to :40053
            		iifname "sk-default" ip daddr 10.213.0.1 tcp dport 53 redirect to :40053
            	}
            	chain input {
            		type filter hook input priority 0; policy accept;
            		ip daddr 10.213.0.1 iifname != { "lo", "sk-default" } drop
            		iifname "sk-*" goto from_containers
            	}
            	chain from_containers {
            		iifname "sk-default" ip saddr != 10.213.0.0/24 drop
            		ct state established,related accept
            		meta l4proto icmp accept
            		iifname "sk-default" ip daddr 10.213.0.1 udp dport { 53, 40053 } accept
            		iifname "sk-default" ip daddr 10.213.0.1 tcp dport { 53, 40053 } accept
            		meta l4proto tcp reject with tcp reset
            		reject with icmpx type admin-prohibited
            	}
            	chain forward {
            		type filter hook forward priority 0; policy accept;
            		iifname "sk-*" goto leaving
            		oifname "sk-*" ct state established,related accept
            		oifname "sk-*" drop
            		drop
            	}
            	chain leaving {
            		iifname "sk-default" ip saddr != 10.213.0.0/24 drop
            		iifname "sk-default" oifname "sk-default" accept
            		oifname "sk-*" drop
            		accept
            	}
            	chain postrouting {
            		type nat hook postrouting priority 100; policy accept;
            		oifname "lo" accept
            		oifname "sk-*" accept
            		ip saddr 10.213.0.0/24 masquerade
            	}
            }
        "#]]
        .assert_eq(&rules.render());
    }

    #[test]
    fn without_environments_the_table_goes() {
        expect![[r#"
            table inet skerry
            delete table inet skerry
        "#]]
        .assert_eq(&Rules::default().render());
    }
}
