//! A shell in an emulated machine, at a port that is no part of any network.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::wait::{SHORT, eventually};

/// One connection; the shell at its other end keeps its variables.
#[derive(Debug)]
pub struct Shell {
    reader: BufReader<UnixStream>,
    count: u32,
}

impl Shell {
    /// Connects to the socket of the emulator, which waits for us before it starts the machine.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = eventually("the emulator", SHORT, || Ok(UnixStream::connect(socket)?))?;
        Ok(Self { reader: BufReader::new(stream), count: 0 })
    }

    /// Runs `line`, and tells what it printed; another end than 0 is an error.
    pub fn run(&mut self, line: &str, patience: Duration) -> Result<String> {
        let (code, text) = self.ask(line, patience)?;
        ensure!(code == 0, "{line:?} ended with {code}: {text}");
        Ok(text)
    }

    /// Runs `line`, and tells how it ended and what it printed.
    pub fn ask(&mut self, line: &str, patience: Duration) -> Result<(u32, String)> {
        self.count += 1;
        let mark = format!("== {} ended with", self.count);
        let stream = self.reader.get_mut();
        stream.set_read_timeout(Some(patience))?;
        // What runs has no input: the next line for the shell is not its.
        writeln!(stream, "{{ {line}\n}} </dev/null 2>&1; echo; echo \"{mark} $?\"")?;
        let mut text = String::new();
        loop {
            let mut read = String::new();
            let count = self.reader.read_line(&mut read);
            let count = count.with_context(|| format!("waited {patience:?} for {line:?}"))?;
            if count == 0 {
                bail!("the machine ended in the middle of {line:?}");
            }
            if let Some(code) = read.strip_prefix(&mark) {
                return Ok((code.trim().parse()?, text.trim().to_owned()));
            }
            text.push_str(&read);
        }
    }
}
