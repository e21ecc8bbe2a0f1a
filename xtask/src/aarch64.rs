//! Programs for 64-bit Arm on another machine: cross-built, run under QEMU.
//!
//! rustup's toolchain has the standard library of its own machine; Debian's rustc has the Arm one
//! too. It conflicts with rustup's when installed, so it is unpacked into the cache. The linker,
//! the C library and QEMU are installed as ordinary packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, command, nextest};

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Crates whose tests run under QEMU: those that hold code for an instruction set, and what
/// computes through them. The rest has no code of its own for Arm, and its tests on whole models
/// would take an hour there.
const CRATES: [&str; 3] = ["kinglet-kernels", "kinglet-graph", "kinglet-runtime"];

/// Programs that building and running needs, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 2] = [
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("qemu-aarch64-static", "qemu-user-static"),
];
const C_LIBRARY: (&str, &str) = ("/usr/aarch64-linux-gnu/lib/libc.so.6", "libc6-dev-arm64-cross");

/// In the toolchain's folder: the name of the LLVM package that its rustc needs.
const LLVM: &str = "llvm-package";

/// Runs the tests on one of QEMU's processors.
pub fn test(cpu: &str) -> Result<()> {
    let rust = set_up()?;
    let runner =
        format!("env -u LD_LIBRARY_PATH qemu-aarch64-static -cpu {cpu} -L /usr/aarch64-linux-gnu");
    let mut run = nextest::command()?;
    run.args(["run", "--profile", "qemu", "--target", TARGET]);
    run.args(CRATES.iter().flat_map(|name| ["--package", name]));
    run.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    command::run(with(&rust, &mut run))
}

/// Builds an example of a package with optimisation; the program.
pub fn example(package: &str, name: &str) -> Result<PathBuf> {
    let rust = set_up()?;
    let mut build = command::cargo();
    build.args(["build", "--release", "--target", TARGET, "--package", package, "--example", name]);
    command::run(with(&rust, &mut build))?;
    Ok(target().join(TARGET).join("release/examples").join(name))
}

/// Lets cargo build with the Rust toolchain in the folder `rust`.
fn with<'a>(rust: &Path, cargo: &'a mut Command) -> &'a mut Command {
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", PROGRAMS[0].0);
    cargo.env("CARGO_TARGET_DIR", target());
    cargo.env("RUSTC", rust.join("usr/bin/rustc"));
    cargo.env("LD_LIBRARY_PATH", library_path(rust))
}

fn target() -> PathBuf {
    command::root().join("target/aarch64")
}

/// Installs and unpacks what is missing; gives the folder that holds the Rust toolchain.
pub fn set_up() -> Result<PathBuf> {
    let library = (!Path::new(C_LIBRARY.0).exists()).then_some(C_LIBRARY.1);
    let missing: Vec<_> = missing(&PROGRAMS).chain(library).collect();
    install_missing(&missing)?;
    let rust = cache::folder("aarch64-rust", TARGET, unpack_rust)?;
    // LLVM conflicts with nothing, so it is installed, with all that it needs.
    if rustc_version(&rust).is_err() {
        let llvm = fs::read_to_string(rust.join(LLVM)).context("reading rustc's LLVM")?;
        update_package_lists()?;
        install(&[&llvm])?;
        println!("setup: {}", rustc_version(&rust)?.trim());
    }
    Ok(rust)
}

/// Of programs and the Debian packages that hold them, the packages of those that are not there.
pub fn missing<'a>(programs: &'a [(&str, &'a str)]) -> impl Iterator<Item = &'a str> {
    programs.iter().filter(|(program, _)| !command::exists(program)).map(|(_, package)| *package)
}

/// Installs Debian packages, if any.
pub fn install_missing(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    need_apt(&packages.join(", "))?;
    update_package_lists()?;
    install(packages)
}

/// Unpacks Debian's rustc and its two standard libraries into `folder`.
fn unpack_rust(folder: &Path) -> Result<()> {
    need_apt("Debian's rustc-web")?;
    println!("setup: Debian's rustc for aarch64 into {}", folder.display());
    let architectures = command::output(Command::new("dpkg").arg("--print-foreign-architectures"))?;
    if !architectures.lines().any(|name| name == "arm64") {
        let mut add = Command::new("dpkg");
        command::run_as_root(add.args(["--add-architecture", "arm64"]), "adding arm64 packages")?;
    }
    update_package_lists()?;

    // The library packages carry their version in their name.
    let version = candidate("rustc-web")?;
    let shared_library = dependency("libstd-rust-web-dev", &version, "libstd-rust-web-")?;
    let llvm = dependency(&shared_library, &version, "libllvm")?;
    let of_rust = |name: &str| format!("{name}={version}");
    fs::write(folder.join(LLVM), llvm).context("noting rustc's LLVM")?;
    let host = ["rustc-web", &shared_library, "libstd-rust-web-dev"].map(of_rust);
    unpack(&host, folder)?;

    let arm = folder.join("arm64");
    unpack(&[of_rust("libstd-rust-web-dev:arm64")], &arm)?;
    let library = Path::new("usr/lib/rustlib").join(TARGET);
    let move_library = || -> std::io::Result<()> {
        fs::rename(arm.join(&library), folder.join(&library))?;
        fs::remove_dir_all(&arm)
    };
    move_library().context("moving the Arm standard library into place")?;
    Ok(())
}

/// Installs Debian packages.
fn install(packages: &[&str]) -> Result<()> {
    println!("setup: installing {}", packages.join(" "));
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    command::run_as_root(&mut install, "installing packages for the aarch64 tests")
}

/// Downloads packages (`NAME=VERSION`) and unpacks them into `folder`, without installing them.
fn unpack(packages: &[String], folder: &Path) -> Result<()> {
    let downloads = folder.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    let mut download = Command::new("apt-get");
    // Run by root, apt would warn that its sandbox's user cannot write here.
    download.args(["-o", "APT::Sandbox::User=root"]);
    command::run(download.args(["download", "-qq"]).args(packages).current_dir(&downloads))?;
    for package in fs::read_dir(&downloads)? {
        command::run(Command::new("dpkg").arg("-x").arg(package?.path()).arg(folder))?;
    }
    fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())
}

fn rustc_version(rust: &Path) -> Result<String> {
    let mut rustc = Command::new(rust.join("usr/bin/rustc"));
    command::output(rustc.arg("--version").env("LD_LIBRARY_PATH", library_path(rust)))
}

/// Where the unpacked rustc finds its own libraries.
fn library_path(rust: &Path) -> PathBuf {
    rust.join("usr/lib/x86_64-linux-gnu")
}

/// The version of a package that apt would install.
fn candidate(package: &str) -> Result<String> {
    let policy = command::output(Command::new("apt-cache").args(["policy", package]))?;
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    match candidate {
        Some(version) if version != "(none)" => Ok(version.into()),
        _ => bail!("apt knows no package {package}: this needs Debian with its security updates"),
    }
}

/// The package, named `prefix` and a version, that `package` depends on.
fn dependency(package: &str, version: &str, prefix: &str) -> Result<String> {
    let mut show = Command::new("apt-cache");
    let text = command::output(show.arg("show").arg(format!("{package}={version}")))?;
    let depends = text.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    let mut names = depends.split(',').filter_map(|entry| entry.split_whitespace().next());
    let is_wanted = |name: &&str| {
        let version = name.strip_prefix(prefix);
        version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    match names.find(is_wanted) {
        Some(name) => Ok(name.into()),
        None => bail!("Debian's {package} {version} depends on no {prefix}*: {depends}"),
    }
}

fn update_package_lists() -> Result<()> {
    let mut update = Command::new("apt-get");
    command::run_as_root(update.args(["update", "-qq"]), "updating apt's package lists")
}

fn need_apt(wanted: &str) -> Result<()> {
    if !command::exists("apt-get") {
        bail!(
            "the aarch64 tests need {wanted}, which are set up from Debian's packages, and this \
             machine has no apt-get; `cargo xtask test --without aarch64` leaves these tests out"
        );
    }
    Ok(())
}
