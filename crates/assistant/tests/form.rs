//! The grammar that decoding is held to.

use kinglet_assistant::Contract;

#[test]
fn words_of_the_sentence_are_what_may_be_repeated() {
    let grammar = Contract::shipped().grammar("say \"né à 6\" in Low German");
    let line = |name: &str| {
        let line = grammar.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name}: {grammar}")).to_owned()
    };
    assert_eq!(
        line("SUBSTRING"),
        r#"%regex {"substring_chunks": ["say"," ","\\\"","né"," ","à"," ","6","\\\""," ","in"," ","Low"," ","German"]}"#
    );
    assert!(line("LANGUAGE").ends_with(r#" | "low german""#), "{}", line("LANGUAGE"));
    let volume = line("TO_SET_VOLUME");
    assert!(
        volume.starts_with(r#""set_volume\",\"arguments\":{" "\"percent\":" /0|1|2|"#),
        "{volume}"
    );
    assert!(
        volume.ends_with(r#"|99|100/ (",\"stream\":" "\"" ("media" | "ring" | "alarm") "\"" )?"#),
        "{volume}"
    );
    assert!(
        line("TO_SEND_MESSAGE").contains(r#""\"to\":" "\"" (SAID) "\"" ",\"text\":" "\"" (TEXT)"#)
    );
}
