//! On which ports a replica's programs listen, read where the kernel lists them: for a person whose app is not where
//! its document says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use containerd_client::types::v1::Status as TaskStatus;
use domain::model::ReplicaName;
use domain::replica::Listener;

use super::Containerd;
use super::record::Record;
use crate::runtime::RuntimeError;

/// `TCP_LISTEN`, as the kernel prints it.
const LISTENS: &str = "0A";

/// The kernel lists what listens first, so what is cut off of the table of a busy app is of no interest here.
const MAX_TABLE_BYTES: u64 = 256 << 10;

/// Ports that are told of; an app with more is not looked through for one.
const MAX_LISTENERS: usize = 16;

impl<I> Containerd<I> {
    /// The containers of a replica share one network, so any that runs shows it.
    pub(super) async fn listeners_of(
        &self,
        replica: &ReplicaName,
    ) -> Result<Vec<Listener>, RuntimeError> {
        let calls = &self.shared.calls;
        for record in calls.containers(Some(replica), Record::of).await? {
            let task = calls.task(&record.id).await?;
            if let Some(task) = task.filter(|task| task.status() == TaskStatus::Running) {
                let table = |name| table(task.pid, name);
                return Ok(listeners(&[table("tcp"), table("tcp6")]));
            }
        }
        Ok(Vec::new())
    }
}

fn table(pid: u32, name: &str) -> String {
    let mut text = String::new();
    // A process that is gone by now listens nowhere.
    if let Ok(file) = File::open(format!("/proc/{pid}/net/{name}")) {
        let _ = file.take(MAX_TABLE_BYTES).read_to_string(&mut text);
    }
    text
}

fn listeners(tables: &[String]) -> Vec<Listener> {
    let mut found: BTreeMap<u16, bool> = BTreeMap::new();
    for (address, port) in tables.iter().flat_map(|table| table.lines()).filter_map(listener) {
        let loopback = found.entry(port).or_insert(true);
        *loopback = *loopback && address.is_loopback();
    }
    let all = found.into_iter().map(|(port, loopback)| Listener { port, loopback });
    all.take(MAX_LISTENERS).collect()
}

/// `  0: 0100007F:1F90 00000000:0000 0A …`
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _, state) = (words.next()?, words.next()?, words.next()?);
    let (address, port) = local.split_once(':')?;
    (state == LISTENS).then_some(())?;
    Some((parsed(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Words of four bytes, each printed as a number of this machine.
fn parsed(hex: &str) -> Option<IpAddr> {
    let word = |n: usize| {
        let word = u32::from_str_radix(hex.get(8 * n..8 * n + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[4 * n..4 * n + 4].copy_from_slice(&word(n)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_told_apart_by_whom_they_serve() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let v4 = head.to_owned()
            + "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
            + "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
            + "   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
            + "   3: 05F9D50A:9C40 06F9D50A:1F90 01 00000000:00000000 00:00000000 00000000\n";
        let v6 = head.to_owned()
            + "   0: 00000000000000000000000001000000:1388 00000000000000000000000000000000:0000 0A 0\n"
            + "   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0\n"
            + "   2: 0000000000000000FFFF00000100007F:1389 00000000000000000000000000000000:0000 0A 0\n";
        let listener = |port, loopback| Listener { port, loopback };
        let expected = [
            listener(80, false),
            listener(3000, true),
            listener(5000, true),
            listener(5001, true),
            listener(8080, false),
        ];
        assert_eq!(listeners(&[v4, v6]), expected);
        assert_eq!(expected[1].to_string(), "127.0.0.1:3000 only");
        assert_eq!(expected[4].to_string(), "8080");
    }

    #[test]
    fn what_listens_here_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        // The table of this machine may hold more than is told of.
        let table = table(std::process::id(), "tcp");
        let found: Vec<_> = table.lines().filter_map(listener).collect();
        assert!(found.contains(&(Ipv4Addr::LOCALHOST.into(), port)));
        drop(socket);
    }

    #[test]
    fn a_table_that_cannot_be_read_lists_nothing() {
        assert_eq!(
            listeners(&["x\n0: zz:1 y 0A\n0: 0100007F 0 0A\n0: 01:1 0:0 0A".to_owned()]),
            []
        );
        assert_eq!(table(u32::MAX, "tcp"), "");
    }
}
