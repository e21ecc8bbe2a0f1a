//! The grammars, as the program carries them.

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../data/", $folder, "/", $name, ".txt")))),*]
    };
}

/// Files of a grammar: names and texts.
pub type Files = &'static [(&'static str, &'static str)];

/// What training data is derived from: a file a function, and those that they share.
pub static TRAIN: Files = files!("train":
    "frame" "people" "places" "media" "things" "words" "clauses" "messages" "tasks"
    "set_alarm" "cancel_alarm" "set_timer" "create_reminder" "create_event" "call" "send_message"
    "send_email" "open_app" "play_media" "media_control" "set_volume" "set_brightness"
    "toggle_setting" "take_photo" "record_video" "navigate" "search_web" "get_weather" "translate"
    "take_note" "calculate" "add_to_list" "home_device" "no_call");

/// Sentences to choose among models by.
pub static DEV: Files = files!("dev":
    "set_alarm" "cancel_alarm" "set_timer" "create_reminder" "create_event" "call" "send_message"
    "send_email" "open_app" "play_media" "media_control" "set_volume" "set_brightness"
    "toggle_setting" "take_photo" "record_video" "navigate" "search_web" "get_weather" "translate"
    "take_note" "calculate" "add_to_list" "home_device" "no_call");

/// Sentences to judge a model by, once it is made.
pub static TEST: Files = files!("test":
    "set_alarm" "cancel_alarm" "set_timer" "create_reminder" "create_event" "call" "send_message"
    "send_email" "open_app" "play_media" "media_control" "set_volume" "set_brightness"
    "toggle_setting" "take_photo" "record_video" "navigate" "search_web" "get_weather" "translate"
    "take_note" "calculate" "add_to_list" "home_device" "no_call");
