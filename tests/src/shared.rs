//! One board for the tests of a file.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Result;

use crate::board::Board;
use crate::broker::{Access, Broker};
use crate::control::Control;
use crate::lan::Lan;

/// Something that tests share for as long as one of them holds it; then it is dropped, which a plain static never is.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// What the others have, or what `make` makes.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = held.upgrade() {
            return Ok(shared);
        }
        let shared = Arc::new(make()?);
        *held = Arc::downgrade(&shared);
        Ok(shared)
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A board that runs, its broker and its control plane.
#[derive(Debug)]
pub struct Stage {
    /// The control plane.
    pub control: Control,
    /// The board.
    pub board: Board,
    /// The broker.
    pub broker: Broker,
}

impl Stage {
    /// Starts everything; `prepare` puts images and settings in place before the agent starts.
    pub fn start(prepare: impl FnOnce(&mut Board) -> Result<()>) -> Result<Self> {
        let lan = Lan::take()?;
        let broker = Broker::start(&lan, Access::Anonymous)?;
        let mut board = Board::new(lan)?;
        board.settings().broker(&broker);
        prepare(&mut board)?;
        board.start_containerd()?;
        let control = Control::connect(&broker, &board.device())?;
        board.start()?;
        Ok(Self { control, board, broker })
    }
}
