//! A library that is loaded while the program runs, and calls back into it.

use std::hint::black_box;
use std::sync::OnceLock;

use libloading::Library;

use super::places::{BURNING, burn_cpu, note_and};

pub const BURN: &str = concat!(module_path!(), "::burn_for_plugin");

/// Lies beside the program.
const FILE_NAME: &str = "libcontention_plugin.so";

type Callback = extern "C" fn() -> u64;
type Transform = unsafe extern "C" fn(Callback) -> u64;

/// Loaded by whoever comes here first, and never unloaded.
fn plugin() -> &'static Library {
    static PLUGIN: OnceLock<Library> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let program = std::env::current_exe().expect("the program has a path");
        // SAFETY: the library is ours, and nothing runs when it is loaded.
        unsafe { Library::new(program.with_file_name(FILE_NAME)) }
            .unwrap_or_else(|error| panic!("{FILE_NAME} lies beside the program: {error}"))
    })
}

#[inline(never)]
pub fn at_plugin() -> u64 {
    // SAFETY: that is its type.
    let transform = unsafe { plugin().get::<Transform>(b"plugin_transform\0") }
        .expect("the library has its one function");
    // SAFETY: it calls the callback and nothing else.
    black_box(unsafe { transform(called_back) })
}

extern "C" fn called_back() -> u64 {
    note_and!(Plugin, burn_for_plugin())
}

#[inline(never)]
fn burn_for_plugin() -> u64 {
    burn_cpu(29, BURNING)
}
