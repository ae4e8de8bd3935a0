//! `holdup` says which lock, which task and which line of code is holding up a live Tokio process.
//!
//! Data flows one way: kernel -> wire -> decode -> correlate -> symbolize -> classify -> report ->
//! render. Each module is one stage.

mod apart;
pub mod audit;
pub mod capture;
pub mod classify;
pub mod cli;
pub mod correlate;
pub mod decode;
pub mod event;
mod fnv;
pub mod follow;
pub mod gate;
pub mod histogram;
pub mod probe;
pub mod record;
pub mod render;
pub mod report;
pub mod stuck;
pub mod symbolize;
pub mod target;
pub mod unwind;
