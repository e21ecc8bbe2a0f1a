//! A terminal as a person sits before it: keys go in, and what stands on the screen can be read.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Parser, Screen};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Terminal {
    keys: File,
    program: Child,
    screen: Arc<(Mutex<Parser>, Condvar)>,
}

impl Terminal {
    /// `kinglet` with these words on a terminal of `rows` and `columns`.
    pub fn start(words: &[&str], rows: u16, columns: u16) -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it opens");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let name = name.to_str().expect("a path of UTF-8");
        let flags = OpenptFlags::NOCTTY.bits() as i32;
        let theirs = File::options().read(true).write(true).custom_flags(flags).open(name);
        let theirs = theirs.expect("its other end opens");
        let keys = File::from(ours);
        set_size(&keys, rows, columns);
        let handle = || theirs.try_clone().expect("one more handle");
        // `setsid` makes it the terminal that the program hears Ctrl-C from.
        let program = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_kinglet")])
            .args(words)
            .env("TERM", "xterm-256color")
            .env("RUST_BACKTRACE", "1")
            .stdin(handle())
            .stdout(handle())
            .stderr(handle())
            .spawn()
            .expect("the program starts");
        let mut output = keys.try_clone().expect("one more handle");
        let screen =
            Arc::new((Mutex::new(Parser::new(some(rows), some(columns), 0)), Condvar::new()));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once the program has closed its end.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.0.lock().expect("the screen").process(&bytes[..count]);
                shown.1.notify_all();
            }
        });
        Terminal { keys, program, screen }
    }

    /// Presses keys: text, or the bytes that a terminal sends for others.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the keys are taken");
    }

    /// Waits until the screen is as it should be, and gives its text.
    ///
    /// # Panics
    /// Where it does not come to be.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        let mut parser = self.screen.0.lock().expect("the screen");
        loop {
            let text = seen(parser.screen());
            if is(&text) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come; the screen:\n{text}");
            let wait = self.screen.1.wait_timeout(parser, PATIENCE / 60);
            parser = wait.expect("the screen").0;
        }
    }

    /// Waits until the screen ends with `text`.
    #[track_caller]
    pub fn see(&self, text: &str) -> String {
        self.until(&format!("{text:?}"), |screen| screen.ends_with(text))
    }

    /// Makes the window larger or smaller.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        // First, so that what is drawn for the new size meets a screen of that size.
        let mut parser = self.screen.0.lock().expect("the screen");
        parser.screen_mut().set_size(some(rows), some(columns));
        set_size(&self.keys, rows, columns);
    }

    /// Waits until the program has taken a line and reads no more keys: Ctrl-C is a signal then.
    ///
    /// # Panics
    /// Where it reads on.
    #[track_caller]
    pub fn until_heard(&self) {
        let start = Instant::now();
        let signals = || tcgetattr(&self.keys).expect("its modes").local_modes;
        while !signals().contains(LocalModes::ISIG) {
            assert!(start.elapsed() < PATIENCE, "the program reads keys");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// Where it goes on.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.program.try_wait().expect("the program is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the program goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn some(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("a screen has rows and columns")
}

fn set_size(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("it takes a size");
}

/// The rows as they are seen, without the spaces at their ends, and empty ones at the end.
fn seen(screen: &Screen) -> String {
    let (_, columns) = screen.size();
    let rows: Vec<String> =
        screen.rows(0, columns.get()).map(|row| row.trim_end().to_string()).collect();
    rows.join("\n").trim_end().to_string()
}
