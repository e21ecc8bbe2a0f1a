//! The program, run as a person would run it.

mod assistant;
mod bench;
mod common;
mod detection;
mod distil;
mod files;
mod help;
mod language;
mod library;
mod pictures;
mod quantise;
mod refusals;
mod snapshots;
#[cfg(target_os = "linux")]
mod talk;
mod tensors;
#[cfg(target_os = "linux")]
mod terminal;
mod tokenize;
mod tune;
