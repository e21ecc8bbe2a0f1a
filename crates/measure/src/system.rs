//! What the system tells of the device: its cores and caches.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Cores that are alike, as the system tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// The numbers of its cores.
    pub cpus: Vec<usize>,
    /// What the core is called, where that is known.
    pub part: Option<String>,
    /// The highest clock.
    pub max_mhz: Option<u32>,
    /// How fast the system takes it to be: 1024 is the fastest.
    pub capacity: Option<u32>,
}

/// A level of data caches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is the nearest.
    pub level: u32,
    /// Bytes of one.
    pub bytes: usize,
    /// Usable cores that share one.
    pub shared_by: usize,
    /// How many there are.
    pub count: usize,
}

/// What tells devices apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The CPU's name, or that of its architecture.
    pub model: String,
    /// Cores that this process may use at once, as affinity and quotas say.
    pub usable: usize,
}

impl Identity {
    /// This device and process.
    pub fn here() -> Identity {
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
        Identity { model: model(), usable }
    }
}

/// What the system tells of the device.
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    /// Which device it is.
    pub identity: Identity,
    /// The cores that this process may run on.
    pub cpus: Vec<usize>,
    /// The cores by kind; one kind where the system tells nothing.
    pub kinds: Vec<Kind>,
    /// Data caches, the nearest first; none where the system does not tell.
    pub caches: Vec<Cache>,
}

impl System {
    /// This device and process.
    pub fn here() -> System {
        let identity = Identity::here();
        let cpus = crate::pin::allowed().unwrap_or_else(|| (0..identity.usable).collect());
        let devices = Path::new("/sys/devices");
        System { identity, kinds: kinds(devices, &cpus), caches: caches(devices, &cpus), cpus }
    }
}

fn model() -> String {
    let mut start = String::new();
    // The first core's lines are enough, and the list is long where cores are many.
    let listed = File::open("/proc/cpuinfo").and_then(|f| f.take(4096).read_to_string(&mut start));
    let after = |name: &str| {
        let line = start.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let board = || {
        let text = fs::read_to_string("/proc/device-tree/model").ok()?;
        Some(text.trim_matches(['\0', ' ', '\n']).to_string())
    };
    let named = listed.ok().and_then(|_| after("model name").or_else(|| after("Hardware")));
    let named = named.or_else(board).or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// The text of a file of the system's, trimmed.
fn text(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

/// Groups `cpus` by what the system says of each. `devices` is `/sys/devices` (Linux,
/// Documentation/ABI/testing/sysfs-devices-system-cpu).
fn kinds(devices: &Path, cpus: &[usize]) -> Vec<Kind> {
    // Intel's efficiency cores have counters of their own.
    let efficient = text(devices.join("cpu_atom/cpus")).map_or(Vec::new(), |list| numbers(&list));
    let mut kinds: Vec<Kind> = Vec::new();
    for cpu in cpus {
        let folder = devices.join(format!("system/cpu/cpu{cpu}"));
        let number = |file: &str| text(folder.join(file))?.parse::<u32>().ok();
        let midr = text(folder.join("regs/identification/midr_el1"));
        let part = match efficient.contains(cpu) {
            true => Some("efficiency".to_string()),
            false => midr.and_then(|midr| part(&midr)),
        };
        let max_mhz = number("cpufreq/cpuinfo_max_freq").map(|khz| khz / 1000);
        let capacity = number("cpu_capacity");
        let same = kinds
            .iter_mut()
            .find(|kind| (&kind.part, kind.max_mhz, kind.capacity) == (&part, max_mhz, capacity));
        match same {
            Some(kind) => kind.cpus.push(*cpu),
            None => kinds.push(Kind { cpus: vec![*cpu], part, max_mhz, capacity }),
        }
    }
    kinds
}

/// Arm's own cores by the part number of MIDR_EL1.
const ARM_PARTS: [(u64, &str); 24] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse-N1"),
    (0xd0d, "Cortex-A77"),
    (0xd40, "Neoverse-V1"),
    (0xd41, "Cortex-A78"),
    (0xd44, "Cortex-X1"),
    (0xd46, "Cortex-A510"),
    (0xd47, "Cortex-A710"),
    (0xd48, "Cortex-X2"),
    (0xd49, "Neoverse-N2"),
    (0xd4d, "Cortex-A715"),
    (0xd4e, "Cortex-X3"),
    (0xd4f, "Neoverse-V2"),
    (0xd80, "Cortex-A520"),
    (0xd81, "Cortex-A720"),
    (0xd82, "Cortex-X4"),
    (0xd87, "Cortex-A725"),
];

/// The name of a core, or its maker's and its own number, from MIDR_EL1 (Arm ARM, D19.2.108).
fn part(midr: &str) -> Option<String> {
    let midr = u64::from_str_radix(midr.trim_start_matches("0x"), 16).ok()?;
    let (maker, part) = (midr >> 24 & 0xff, midr >> 4 & 0xfff);
    let known = ARM_PARTS.iter().find(|(number, _)| maker == 0x41 && *number == part);
    Some(known.map_or_else(|| format!("{maker:#04x}-{part:#05x}"), |(_, name)| name.to_string()))
}

/// The data caches of `cpus`.
fn caches(devices: &Path, cpus: &[usize]) -> Vec<Cache> {
    // Each cache by what it is and which cores share it; instruction caches hold no data.
    let mut found: BTreeSet<(u32, usize, Vec<usize>)> = BTreeSet::new();
    for cpu in cpus {
        for index in 0..8 {
            let folder = devices.join(format!("system/cpu/cpu{cpu}/cache/index{index}"));
            let read = |file: &str| text(folder.join(file));
            let cache = (|| {
                read("type").filter(|holds| holds != "Instruction")?;
                let level = read("level")?.parse().ok()?;
                let bytes = size(&read("size")?)?;
                let mut shared = numbers(&read("shared_cpu_list").unwrap_or_default());
                shared.retain(|sharing| cpus.contains(sharing));
                Some((level, bytes, if shared.is_empty() { vec![*cpu] } else { shared }))
            })();
            if let Some(cache) = cache {
                found.insert(cache);
            }
        }
    }
    let mut caches: Vec<Cache> = Vec::new();
    for (level, bytes, shared) in found {
        let shared_by = shared.len();
        let same = caches
            .iter_mut()
            .find(|c| (c.level, c.bytes, c.shared_by) == (level, bytes, shared_by));
        match same {
            Some(cache) => cache.count += 1,
            None => caches.push(Cache { level, bytes, shared_by, count: 1 }),
        }
    }
    caches
}

/// `32K`, `1024K`, `32M`.
fn size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last < 1 << 16).then_some(first..=last)
    };
    list.split(',').filter_map(|part| range(part.trim())).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files like `/sys/devices`.
    fn tree(files: &[(String, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{content}\n")).unwrap();
        }
        folder
    }

    #[test]
    fn big_and_little_cores_are_told_apart() {
        let mut files = Vec::new();
        for cpu in 0..8 {
            let big = cpu >= 4;
            let file = |name: &str| format!("system/cpu/cpu{cpu}/{name}");
            let midr = if big { "0x00000000414fd0b0" } else { "0x00000000412fd050" };
            files.push((file("regs/identification/midr_el1"), midr));
            files.push((file("cpufreq/cpuinfo_max_freq"), if big { "2400000" } else { "1800000" }));
            files.push((file("cpu_capacity"), if big { "1024" } else { "430" }));
        }
        let folder = tree(&files);
        let cpus: Vec<usize> = (0..8).collect();
        let kind = |cpus: std::ops::Range<usize>, part: &str, mhz, capacity| Kind {
            cpus: cpus.collect(),
            part: Some(part.into()),
            max_mhz: Some(mhz),
            capacity: Some(capacity),
        };
        let (little, big) =
            (kind(0..4, "Cortex-A55", 1800, 430), kind(4..8, "Cortex-A76", 2400, 1024));
        assert_eq!(kinds(folder.path(), &cpus), [little, big.clone()]);
        // Of the cores that the process may use only.
        assert_eq!(kinds(folder.path(), &cpus[4..]), [big]);
    }

    #[test]
    fn cores_of_which_nothing_is_told_are_alike() {
        let folder = tree(&[]);
        let one = Kind { cpus: vec![0, 1, 2], part: None, max_mhz: None, capacity: None };
        assert_eq!(kinds(folder.path(), &[0, 1, 2]), [one]);
        assert_eq!(caches(folder.path(), &[0, 1, 2]), []);
    }

    #[test]
    fn efficiency_cores_of_intel_are_a_kind() {
        let folder = tree(&[("cpu_atom/cpus".to_string(), "2-3")]);
        let kinds = kinds(folder.path(), &[0, 1, 2, 3]);
        assert_eq!(kinds.iter().map(|k| &k.cpus[..]).collect::<Vec<_>>(), [&[0, 1][..], &[2, 3]]);
        assert_eq!(kinds[1].part.as_deref(), Some("efficiency"));
    }

    #[test]
    fn caches_are_counted_once_each() {
        let mut files = Vec::new();
        for cpu in 0..4 {
            let pair = if cpu < 2 { "0-1" } else { "2-3" };
            let own = ["0", "1", "2", "3"][cpu];
            for (index, level, kind, size, shared) in [
                (0, "1", "Data", "32K", own),
                (1, "1", "Instruction", "64K", own),
                (2, "2", "Unified", "1024K", pair),
                (3, "3", "Unified", "32M", "0-3"),
                (4, "?", "Unified", "lots", "0-3"),
            ] {
                let file = |name: &str| format!("system/cpu/cpu{cpu}/cache/index{index}/{name}");
                files.extend([
                    (file("level"), level),
                    (file("type"), kind),
                    (file("size"), size),
                    (file("shared_cpu_list"), shared),
                ]);
            }
        }
        let folder = tree(&files);
        let cache = |level, bytes, shared_by, count| Cache { level, bytes, shared_by, count };
        assert_eq!(
            caches(folder.path(), &[0, 1, 2, 3]),
            [cache(1, 32 << 10, 1, 4), cache(2, 1 << 20, 2, 2), cache(3, 32 << 20, 4, 1)]
        );
        assert_eq!(caches(folder.path(), &[1])[1], cache(2, 1 << 20, 1, 1));
    }

    #[test]
    fn lists_and_parts() {
        assert_eq!(numbers("0-2,5, 7-7"), [0, 1, 2, 5, 7]);
        assert!(numbers("x,3-1,0-99999999999").is_empty());
        assert_eq!(part("0x00000000611f0221").as_deref(), Some("0x61-0x022"));
        assert_eq!(part("nonsense"), None);
    }

    #[test]
    fn this_machine_has_cores() {
        let system = System::here();
        let Identity { model, usable } = system.identity;
        assert!(!model.is_empty() && usable >= 1 && usable <= system.cpus.len());
        let mut of_kinds: Vec<_> = system.kinds.iter().flat_map(|k| k.cpus.clone()).collect();
        of_kinds.sort();
        assert_eq!(of_kinds, system.cpus);
    }
}
