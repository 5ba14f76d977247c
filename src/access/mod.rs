//! Who may come in.

pub mod origin;

pub use origin::Origins;
