//! Sealing: what a record says of a secret, so that the files alone tell nobody.
//!
//! ChaCha20-Poly1305. Each sealing takes 96 random bits; a board that writes a record every second for a century stays a
//! billion times below what makes a repetition likely. The name of the record and that of the secret are part of what is
//! sealed, so a value does not open under another name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use domain::replica::Secret;
use domain::state::StoredSecret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use skerry_proto::record as stored;

use crate::keys::RecordKey;

/// What seals and opens.
pub(super) struct Seal {
    /// The first seals; each opens.
    keys: Vec<LessSafeKey>,
    /// Values that none of the keys opens, by the names of their owners. Each is written again as it is, for the key that
    /// opens it may come back.
    pub(super) unopened: Unopened,
}

/// Sealed values, by the names of their owners.
type Unopened = BTreeMap<String, Vec<stored::Secret>>;

/// A record with secrets.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    /// What its secrets are bound to.
    pub(super) name: String,
    pub(super) secrets: &'a BTreeMap<String, StoredSecret>,
    /// What its documents list; none where it was removed, and what a person set goes with it.
    pub(super) listed: Option<BTreeSet<String>>,
}

impl Owner<'_> {
    /// A value that does not open is still its: it was neither set anew nor given up.
    fn misses(&self, secret: &stored::Secret) -> bool {
        let wanted = |listed: &BTreeSet<String>| secret.by_hand || listed.contains(&secret.name);
        !self.secrets.contains_key(&secret.name) && self.listed.as_ref().is_some_and(wanted)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Seal {
    pub(super) fn new(keys: &[RecordKey]) -> Self {
        let key = |key: &RecordKey| {
            let key = UnboundKey::new(&CHACHA20_POLY1305, &key.0);
            LessSafeKey::new(key.expect("a key of this cipher has 32 bytes"))
        };
        Self { keys: keys.iter().map(key).collect(), unopened: Unopened::new() }
    }

    /// The secrets of a record, sealed, and those of it that could not be opened.
    pub(super) fn close(&self, owner: &Owner<'_>) -> Vec<stored::Secret> {
        let close = |(name, secret): (&String, &StoredSecret)| stored::Secret {
            name: name.clone(),
            sealed: self.seal(&bound(&owner.name, name), &secret.value),
            by_hand: secret.by_hand,
        };
        let unopened = self.unopened.get(&owner.name).into_iter().flatten();
        let missed = unopened.filter(|secret| owner.misses(secret)).cloned();
        owner.secrets.iter().map(close).chain(missed).collect()
    }

    /// Forgets what a record, as it was written, wants no more of what could not be opened.
    pub(super) fn forget(&mut self, owner: &Owner<'_>) {
        if let Some(unopened) = self.unopened.get_mut(&owner.name) {
            unopened.retain(|secret| owner.misses(secret));
        }
    }

    fn seal(&self, bound: &str, value: &Secret) -> Vec<u8> {
        let key = self.keys.first().expect("the agent has a key before it has a store");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("a kernel that runs gives random bytes");
        let mut text = value.0.clone().into_bytes();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of, Aad::from(bound.as_bytes()), &mut text)
            .expect("a value is far below the 256 GiB that the cipher takes");
        [nonce.as_slice(), &text].concat()
    }

    fn open(&self, bound: &str, sealed: &[u8]) -> Option<Secret> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, Aad::from(bound.as_bytes()), &mut text).ok()?;
            String::from_utf8(opened.to_vec()).ok().map(Secret)
        })
    }
}

fn bound(owner: &str, name: &str) -> String {
    format!("{owner}/secrets/{name}")
}

/// Reads records, and keeps in mind what their secrets came to.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    seal: &'a Seal,
    /// Secrets whose values do not open, by the names of their record and their own.
    pub(super) lost: Vec<(String, String)>,
    /// The same as they are stored.
    pub(super) unopened: Unopened,
    /// Values stood in documents, as the first release wrote them: the records are to be written anew.
    pub(super) moved: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(seal: &'a Seal) -> Self {
        Self { seal, lost: Vec::new(), unopened: Unopened::new(), moved: false }
    }

    /// The secrets of a record. `owner` is what it was sealed as, `name` the app's or job's.
    pub(super) fn open(
        &mut self,
        owner: &str,
        name: &str,
        secrets: &[stored::Secret],
    ) -> BTreeMap<String, StoredSecret> {
        let mut opened = BTreeMap::new();
        for secret in secrets {
            match self.seal.open(&bound(owner, &secret.name), &secret.sealed) {
                Some(value) => {
                    let by_hand = secret.by_hand;
                    opened.insert(secret.name.clone(), StoredSecret { value, by_hand });
                }
                None => {
                    self.lost.push((name.to_owned(), secret.name.clone()));
                    self.unopened.entry(owner.to_owned()).or_default().push(secret.clone());
                }
            }
        }
        opened
    }
}
