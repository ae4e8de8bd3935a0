//! What the server and the load driver have in common: neither leaves the loopback interface.
//!
//! A Citadel node looks at its NAT when it starts: it asks three STUN servers and some web services for its
//! address, for up to three seconds, and takes itself to be offline when nobody answers. Here nobody is asked: an
//! address that can't be parsed fails before a packet is sent, and so does a proxy on a closed local port.

use std::path::Path;

use citadel_sdk::prelude::{
    BackendType, DefaultNodeBuilder, NativeIO, NodeBuilder, StackedRatchet,
};

/// The builder of a node that keeps its accounts in this folder and does not look for the internet.
/// Files are transferred only between two nodes that both have such a folder.
pub fn offline_node(folder: &Path) -> NodeBuilder<StackedRatchet, NativeIO> {
    let mut builder = DefaultNodeBuilder::default();
    builder
        .with_stun_servers(["", "", ""])
        .with_backend(BackendType::Filesystem(
            folder.to_string_lossy().into_owned(),
        ));
    builder
}

/// Citadel's log on stdout, for whoever sets RUST_LOG.
pub fn log_if_wanted() {
    if std::env::var_os("RUST_LOG").is_some() {
        citadel_sdk::logging::setup_log_no_panic_hook();
    }
}

/// Makes every web request of this process fail at once.
///
/// # Safety
/// No other thread exists yet.
pub unsafe fn forbid_web_requests() {
    for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"] {
        // SAFETY: nobody reads the environment at the same time, as the caller promises.
        unsafe { std::env::set_var(name, "http://127.0.0.1:9") };
    }
    for name in [
        "all_proxy",
        "http_proxy",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
    ] {
        // SAFETY: as above.
        unsafe { std::env::remove_var(name) };
    }
}
