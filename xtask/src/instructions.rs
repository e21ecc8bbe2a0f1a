//! What counting instructions on aarch64 takes: Kinglet and llama.cpp cross-built, and QEMU with a
//! plugin that counts. bench/instructions.py uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bench::bench;
use crate::{aarch64, cache, command, python};

/// What bench/peers.py calls the folder of these programs.
pub const NAME: &str = "aarch64";

/// Programs that are used, and the Debian packages that hold them. The QEMU that the tests run on is
/// linked statically and takes no plugins.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-aarch64", "qemu-user"),
    (COMPILER, "g++-aarch64-linux-gnu"),
    ("cmake", "cmake"),
    ("cc", "gcc"),
];
const COMPILER: &str = "aarch64-linux-gnu-g++";

/// QEMU's processors, and the architecture that llama.cpp's own setting GGML_CPU_ARM_ARCH names for
/// each. `max` could have SVE too: QEMU's vectors of 512 bits would say nothing of a phone.
const CPUS: [(&str, &str); 3] = [
    ("cortex-a53", "armv8-a+crc"),
    ("cortex-a76", "armv8.2-a+dotprod+fp16"),
    ("max", "armv8.6-a+dotprod+fp16+i8mm"),
];

/// How llama.cpp is built: as by default, but for another machine and with nothing beside its library.
const SETTINGS: [&str; 14] = [
    "CMAKE_BUILD_TYPE=Release",
    "CMAKE_SYSTEM_NAME=Linux",
    "CMAKE_SYSTEM_PROCESSOR=aarch64",
    "CMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    "CMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "BUILD_SHARED_LIBS=OFF",
    "GGML_NATIVE=OFF",
    "GGML_OPENMP=OFF",
    "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
    "LLAMA_CURL=OFF",
];

/// The parts of llama.cpp's library that a program is linked with, in order; the one for the CPU is
/// built for each.
const LIBRARIES: [&str; 4] =
    ["src/libllama.a", "ggml/src/libggml.a", FOR_CPU, "ggml/src/libggml-base.a"];
const FOR_CPU: &str = "ggml/src/libggml-cpu.a";

/// Makes what is missing in `folder`: `kinglet`, for each processor `llama-CPU`, and `count.so`.
pub fn programs(folder: &Path) -> Result<PathBuf> {
    aarch64::install_missing(&aarch64::missing(&PROGRAMS).collect::<Vec<_>>())?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let kinglet = aarch64::example("kinglet-lm", "bench_language")?;
    fs::copy(&kinglet, folder.join("kinglet")).with_context(|| kinglet.display().to_string())?;

    let mut plugin = Command::new("cc");
    plugin.args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"]);
    plugin.arg(folder.join("count.so")).arg(source("count.c"));
    command::run(&mut plugin)?;

    let llama = llama()?;
    for (cpu, _) in CPUS {
        let mut link = Command::new(COMPILER);
        link.args(["-x", "c", "-O2", "-Wall", "-Wextra", "-static"]);
        link.args(
            ["llama.cpp/include", "llama.cpp/ggml/include"]
                .map(|path| format!("-I{}", llama.join(path).display())),
        );
        link.arg(source("llama.c")).args(["-x", "none"]);
        link.args(LIBRARIES.map(|library| match library {
            FOR_CPU => llama.join(cpu).join(library),
            _ => llama.join(CPUS[0].0).join(library),
        }));
        command::output(
            link.args(["-lpthread", "-lm", "-o"]).arg(folder.join(format!("llama-{cpu}"))),
        )?;
    }
    Ok(folder.into())
}

fn source(name: &str) -> PathBuf {
    bench("instructions").join(name)
}

/// The folder of llama.cpp's libraries: its source and, for each processor, what was built of it.
fn llama() -> Result<PathBuf> {
    let package = "llama-cpp-python";
    let pins = bench("engines/llama.txt");
    let pins = fs::read_to_string(&pins).with_context(|| pins.display().to_string())?;
    let pin = pins.lines().find(|line| line.starts_with(&format!("{package}==")));
    let Some(pin) = pin else { bail!("bench/engines/llama.txt pins no {package}") };
    let stamp = format!("{pin} {SETTINGS:?} {CPUS:?}");
    let name = format!("llama-aarch64-{}", cache::fingerprint(&stamp));
    cache::folder(&name, &stamp, |folder| build_llama(package, pin, folder))
}

fn build_llama(package: &str, pin: &str, folder: &Path) -> Result<()> {
    println!("setup: llama.cpp for aarch64 into {}", folder.display());
    let downloads = folder.join("downloads");
    let mut download = Command::new(python::interpreter()?);
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    download.args(["--no-binary", package, "--dest"]).arg(&downloads).arg(pin);
    command::run(&mut download)?;
    for archive in fs::read_dir(&downloads)? {
        let mut unpack = Command::new("tar");
        unpack.arg("--extract").arg("--file").arg(archive?.path()).arg("--directory").arg(folder);
        let name = pin.replace('-', "_").replace("==", "-");
        unpack.args(["--strip-components=2", &format!("{name}/vendor/llama.cpp")]);
        command::run(&mut unpack)?;
    }
    fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    for (i, (cpu, architecture)) in CPUS.iter().enumerate() {
        let build = folder.join(cpu);
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(folder.join("llama.cpp")).arg("-B").arg(&build);
        configure.args(SETTINGS.map(|setting| format!("-D{setting}")));
        command::output(configure.arg(format!("-DGGML_CPU_ARM_ARCH={architecture}")))?;
        // The setting reaches only the part for the CPU; the others are the same for all.
        let target = if i == 0 { "llama" } else { "ggml-cpu" };
        let mut make = Command::new("cmake");
        make.arg("--build").arg(&build).args(["--parallel", "2", "--target", target]);
        command::output(&mut make)?;
    }
    Ok(())
}
