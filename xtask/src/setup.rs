//! Everything that the tests need besides Rust, made ready.

use anyhow::Result;

use crate::{aarch64, cache, fixtures, nextest};

#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out what the aarch64 tests need
    #[arg(long)]
    without_aarch64: bool,
}

/// Sets up what is missing; what is there stays.
pub fn run(arguments: &Arguments) -> Result<()> {
    nextest::command()?;
    fixtures::suite()?;
    fixtures::minilm()?;
    if !arguments.without_aarch64 {
        aarch64::set_up()?;
    }
    println!("setup: ready, in {}", cache::root()?.display());
    Ok(())
}
