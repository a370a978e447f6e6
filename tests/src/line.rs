//! A line between a board and a registry that can be counted, slowed, and cut.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use crate::lan::Lan;
use crate::wait::pause;

/// Bytes that wait on this side of the line: those never went over it.
const SEND_BUFFER: usize = 32 << 10;
/// Bytes passed on at once.
const PIECE: usize = 8 << 10;

/// A line to one address, which breaks when it was told to.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    shared: Arc<State>,
}

#[derive(Debug)]
struct State {
    far: SocketAddr,
    passed: AtomicU64,
    cuts: AtomicU64,
    /// Bytes until each cut, from the one before on.
    budgets: Mutex<VecDeque<u64>>,
    bytes_per_second: u64,
    ended: AtomicBool,
}

impl Line {
    /// A line to `far`, that breaks after each of these numbers of bytes and passes no more than so many a second.
    pub fn to(
        lan: &Lan,
        far: SocketAddr,
        budgets: impl IntoIterator<Item = u64>,
        bytes_per_second: u64,
    ) -> Result<Self> {
        let listener = TcpListener::bind((lan.host(), 0))?;
        setsockopt(&listener, sockopt::SndBuf, &SEND_BUFFER)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(State {
            far,
            passed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            budgets: Mutex::new(budgets.into_iter().collect()),
            bytes_per_second,
            ended: AtomicBool::new(false),
        });
        let state = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                // A connection that cannot be made is a cut like any other.
                thread::spawn(move || drop(state.carry(&near)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where the board's end is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that went to the board, heads included.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// How often it broke.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn carry(&self, near: &TcpStream) -> Result<()> {
        let far = TcpStream::connect(self.far)?;
        let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || {
            drop(std::io::copy(&mut from_near, &mut to_far));
            drop(to_far.shutdown(Shutdown::Write));
        });
        let passed = self.pass(&far, near);
        drop(near.shutdown(Shutdown::Both));
        drop(far.shutdown(Shutdown::Both));
        passed
    }

    fn pass(&self, mut far: &TcpStream, mut near: &TcpStream) -> Result<()> {
        let mut piece = [0; PIECE];
        loop {
            let length = far.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            if !self.spend(length as u64) {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            near.write_all(&piece[..length])?;
            self.passed.fetch_add(length as u64, Ordering::SeqCst);
            let price = (length as u64 * 1_000_000).checked_div(self.bytes_per_second);
            if let Some(micros) = price {
                pause(Duration::from_micros(micros));
            }
        }
    }

    /// Whether so many bytes may pass before the line breaks.
    fn spend(&self, bytes: u64) -> bool {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = budgets.front_mut() else { return true };
        if let Some(rest) = left.checked_sub(bytes) {
            *left = rest;
            return true;
        }
        budgets.pop_front();
        false
    }
}
