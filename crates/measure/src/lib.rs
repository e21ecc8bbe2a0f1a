//! What a device can do, and how near to it a model runs.
//!
//! [`probe::probe`] measures a device and makes a [`profile::Profile`], which is kept for the next
//! time. A [`Recorder`] takes the time of the steps of plans; [`Phase`] compares them with what the
//! [`Roof`] of the device allows.

pub mod choices;
pub mod html;
pub mod inputs;
pub mod nets;
mod pin;
mod plot;
pub mod probe;
pub mod profile;
mod recorder;
mod report;
mod roof;
mod spread;
pub mod system;
#[cfg(test)]
mod testing;
pub mod text;
pub mod threads;
mod work;

pub use plot::{Curve, curves, escape};
pub use recorder::{Recorder, Timed};
pub use report::{Figures, Layer, Limits, Phase, Report};
pub use roof::{Bound, Roof};
pub use spread::Spread;
pub use work::Work;
