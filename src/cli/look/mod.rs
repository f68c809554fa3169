//! Verbs that look at pictures.
//!
//! In: picture files, stdin, cameras. Out: an answer on stdout, as it is made or as one JSON
//! document.
//!
//! - `task`: what they share: options, the open session, one answer
//! - `question`: `culet caption`, `culet ask` and `culet compare`
//! - `ocr`: `culet ocr`; `detect`: `culet detect`
//! - `video`: a video in place of a picture
//! - `eye`: where frames come from; `see`: `culet see`; `watch`: `culet watch`

pub(crate) mod detect;
mod eye;
pub(crate) mod ocr;
pub(crate) mod question;
pub(crate) mod see;
mod task;
mod video;
pub(crate) mod watch;
