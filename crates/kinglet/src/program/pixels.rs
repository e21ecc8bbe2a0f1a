//! How pictures become what a model takes.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use kinglet::VisionOptions;
use kinglet::tasks::{Channels, Fit, Values};

/// What a model's file may not say of pictures.
#[derive(Args)]
pub(super) struct Pixels {
    /// How a picture of another shape is made to fit [default: letterbox for poses, else stretch]
    #[arg(long, value_parser = choice(&FITS))]
    fit: Option<Fit>,
    /// What a float input takes for a pixel [default: as the model says, else a guess]
    #[arg(long, value_parser = choice(&PIXELS))]
    pixels: Option<Values>,
    /// The order of a pixel's colours [default: rgb]
    #[arg(long, value_parser = choice(&CHANNELS))]
    channels: Option<Channels>,
}

impl Pixels {
    /// As the library takes them.
    pub fn options(&self) -> VisionOptions {
        VisionOptions {
            fit: self.fit,
            values: self.pixels.clone(),
            channels: self.channels,
            ..VisionOptions::default()
        }
    }

    /// Which of them were given.
    pub fn given(&self) -> [Option<&'static str>; 3] {
        [
            self.fit.map(|_| "fit"),
            self.pixels.as_ref().map(|_| "pixels"),
            self.channels.map(|_| "channels"),
        ]
    }
}

const FITS: [(&str, Fit); 3] =
    [("stretch", Fit::Stretch), ("crop", Fit::Crop), ("letterbox", Fit::Letterbox)];
const PIXELS: [(&str, Values); 4] = [
    ("0..1", Values::UNIT),
    ("-1..1", Values::SYMMETRIC),
    ("0..255", Values::RAW),
    ("imagenet", Values::IMAGENET),
];
const CHANNELS: [(&str, Channels); 2] = [("rgb", Channels::Rgb), ("bgr", Channels::Bgr)];

pub(super) fn choice<T: Clone + Send + Sync + 'static>(
    choices: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(choices.iter().map(|row| row.0));
    names.map(|name| {
        let row = choices.iter().find(|row| row.0 == name);
        row.expect("the parser lets only these through").1.clone()
    })
}
