//! A mosquitto of the test's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::command::run;
use crate::lan::Lan;
use crate::process::Process;
use crate::wait::SHORT;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anonymous,
    /// `user` with the password `secret`.
    Password,
    /// Those with a certificate of our authority, over TLS.
    Certificate,
}

/// The files of a small certificate authority.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority.
    pub ca: PathBuf,
    /// A client.
    pub cert: PathBuf,
    /// The key of the client.
    pub key: PathBuf,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    access: Access,
    dir: PathBuf,
    process: Option<Process>,
}

impl Broker {
    /// Starts one on the test's address of `lan`, with its files in the board's directory.
    pub fn start(lan: &Lan, access: Access) -> Result<Self> {
        let address = SocketAddr::from((lan.host(), lan.free_port()?));
        let dir = lan.dir().join(format!("broker-{}", address.port()));
        fs::create_dir_all(&dir)?;
        let mut broker = Self { address, access, dir, process: None };
        broker.configure(lan.host())?;
        broker.resume()?;
        Ok(broker)
    }

    fn configure(&self, host: Ipv4Addr) -> Result<()> {
        let dir = self.dir.display();
        let mut text = format!(
            "user root\nlistener {port} {host}\npersistence true\npersistence_location {dir}/\n\
             log_dest stderr\nlog_type all\nset_tcp_nodelay true\nmax_queued_messages 10000\n",
            port = self.address.port(),
        );
        let access = match self.access {
            Access::Anonymous => "allow_anonymous true\n".to_owned(),
            Access::Password => {
                let file = self.dir.join("passwords");
                let path = file.display().to_string();
                run("mosquitto_passwd", ["-b", "-c", &path, "user", "secret"])?;
                format!("allow_anonymous false\npassword_file {path}\n")
            }
            Access::Certificate => {
                issue(&self.dir, host)?;
                format!(
                    "allow_anonymous true\nrequire_certificate true\ncafile {dir}/ca.pem\n\
                     certfile {dir}/server.pem\nkeyfile {dir}/server.key\n"
                )
            }
        };
        text.push_str(&access);
        fs::write(self.dir.join("mosquitto.conf"), text)?;
        Ok(())
    }

    /// Where it is, as the agent's configuration wants it.
    pub fn url(&self) -> String {
        let scheme = if self.access == Access::Certificate { "mqtts" } else { "mqtt" };
        format!("{scheme}://{}", self.address)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may connect.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The files that a client needs where [`Access::Certificate`] rules.
    pub fn certificates(&self) -> Certificates {
        let file = |name: &str| self.dir.join(name);
        Certificates { ca: file("ca.pem"), cert: file("client.pem"), key: file("client.key") }
    }

    /// Beside the board's logs, to be kept with them.
    fn log_file(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Stops it; retained messages and sessions stay on disk.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate()?;
        }
        Ok(())
    }

    /// Starts it again at the same address.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.dir.join("mosquitto.conf"));
        let mut process = Process::start("mosquitto", &mut command, &self.log_file())?;
        process.await_ready(SHORT, || Ok(TcpStream::connect(self.address)?))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it, forgets every retained message and session, and starts it again.
    pub fn wipe(&mut self) -> Result<()> {
        self.stop()?;
        fs::remove_file(self.dir.join("mosquitto.db"))?;
        self.resume()
    }
}

/// An authority, a certificate for a server at `host`, and one for a client.
fn issue(dir: &Path, host: Ipv4Addr) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    // OpenSSL takes a certificate for self-signed where subject and issuer have one name.
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(dir.join("ca.pem"), ca.pem())?;
    for (name, subject) in [("server", host.to_string()), ("client", "client".to_owned())] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![subject])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &ca)?;
        fs::write(dir.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
