//! Prints training examples to read: `cargo run -p kinglet-assistant --example sample -- 7 40 call`
//! (seed, how many, and of which function, if not of all).

use kinglet_assistant::Generator;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let mut left = arguments.next().map_or(Ok(20), |text| text.parse::<u64>())?;
    let function = arguments.next();
    let mut generator = Generator::new(seed)?;
    while left > 0 {
        let example = generator.example()?;
        if function.as_ref().is_none_or(|name| *name == example.call.name) {
            println!("{}", example.line());
            left -= 1;
        }
    }
    Ok(())
}
