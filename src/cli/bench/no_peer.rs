//! The peer of a build without one: it cannot be opened.
//!
//! In: a path. Out: an error that says how to get a peer.
//! Invariant: the types have no values, so nothing can be measured with them.

use std::marker::PhantomData;
use std::path::Path;

use culet::Error;
use culet::Frame;
use culet::Result;
use culet::TokenId;

/// A model of the peer.
pub(super) enum Peer {}

impl Peer {
    /// Refuses.
    pub(super) fn open(_: &Path) -> Result<Self> {
        Err(Error::unsupported("this build has no peer; build with --features reference"))
    }

    /// Never runs.
    pub(super) fn timeline(&self, _: usize, _: usize) -> Result<Timeline<'_>> {
        match *self {}
    }

    /// Never runs.
    pub(super) fn media(&self, _: &Path, _: usize, _: u32) -> Result<Media> {
        match *self {}
    }
}

/// A timeline of the peer.
pub(super) struct Timeline<'a> {
    never: Peer,
    model: PhantomData<&'a Peer>,
}

impl Timeline<'_> {
    /// Never runs.
    pub(super) fn clear(&mut self) {
        match self.never {}
    }

    /// Never runs.
    pub(super) fn hear(&mut self, _: &mut Media, _: &[f32]) -> Result<usize> {
        match self.never {}
    }

    /// Never runs.
    pub(super) fn see(&mut self, _: &mut Media, _: &Frame) -> Result<usize> {
        match self.never {}
    }

    /// Never runs.
    pub(super) fn save(&self, _: &Path, _: &[TokenId]) -> Result<()> {
        match self.never {}
    }

    /// Never runs.
    pub(super) fn load(&mut self, _: &Path, _: usize) -> Result<()> {
        match self.never {}
    }

    /// Never runs.
    pub(super) fn append(&mut self, _: &[TokenId]) -> Result<&[f32]> {
        let _ = self.model;
        match self.never {}
    }
}

/// Encoders of the peer.
pub(super) enum Media {}

impl Media {
    /// Never runs.
    pub(super) fn sees(&self) -> bool {
        match *self {}
    }

    /// Never runs.
    pub(super) fn hears(&self) -> bool {
        match *self {}
    }

    /// Never runs.
    pub(super) fn picture(&mut self, _: &Frame) -> Result<usize> {
        match *self {}
    }

    /// Never runs.
    pub(super) fn sound(&mut self, _: &[f32]) -> Result<usize> {
        match *self {}
    }
}
