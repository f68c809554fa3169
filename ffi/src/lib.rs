//! C interface of Culet.
