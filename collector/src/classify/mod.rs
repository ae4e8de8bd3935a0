//! Whose code a frame is: frames go in, an [`Origin`] and a crate name come out.
//!
//! The rules are data (TOML), embedded and replaceable, because which crates count as crypto is the
//! user's business, not the program's.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::symbolize::Frame;

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A cryptographic crate or library.
    Crypto,
    /// A lock's own code.
    Lock,
    /// The async runtime.
    Runtime,
    /// Rust's standard library.
    Std,
    /// The kernel.
    Kernel,
    /// The application's own crates.
    User,
    /// Other crates and libraries.
    Library,
    /// Nothing tells.
    Unknown,
}

/// What a frame was classed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Whose code it is.
    pub origin: Origin,
    /// The crate, with `_` for `-`.
    pub krate: Option<String>,
}

/// The rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not the TOML that is expected.
    #[error("the rules are not valid: {0}; compare them with the embedded ones")]
    Toml(#[from] toml::de::Error),
}

/// Which crates, symbols and modules are of which origin.
#[derive(Clone, Debug)]
pub struct Rules {}

impl Rules {
    /// The rules that come with holdup.
    pub fn embedded() -> Rules {
        Rules {}
    }

    /// Rules from a file's text, in place of the embedded ones.
    pub fn from_toml(_text: &str) -> Result<Rules, RulesError> {
        Ok(Rules {})
    }

    /// Whose code a frame is.
    pub fn classify(&self, frame: &Frame) -> Class {
        let krate = frame.function.split("::").next().map(str::to_owned);
        let origin = match krate.as_deref() {
            Some("std" | "core" | "alloc") => Origin::Std,
            Some("tokio") => Origin::Runtime,
            Some("parking_lot" | "parking_lot_core" | "lock_api") => Origin::Lock,
            _ => Origin::User,
        };
        Class { origin, krate }
    }
}
