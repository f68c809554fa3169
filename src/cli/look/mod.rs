//! Verbs that look at pictures.
//!
//! In: picture files, stdin. Out: an answer on stdout, as it is made or as one JSON document.
//!
//! - `task`: what they share: options, the open session, one answer
//! - `question`: `culet caption`, `culet ask` and `culet compare`
//! - `ocr`: `culet ocr`; `detect`: `culet detect`

pub(crate) mod detect;
pub(crate) mod ocr;
pub(crate) mod question;
mod task;
