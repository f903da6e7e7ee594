//! How much memory is near. It decides who does what, and in which order, and no answer.

use std::sync::OnceLock;

/// What most CPUs have at least.
const USUAL: usize = 1 << 20;

/// Bytes of a core's second-level cache.
pub(crate) fn second_level() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| told().unwrap_or(USUAL))
}

/// What the system says of its first CPU, in a range that can be true.
#[cfg(target_os = "linux")]
fn told() -> Option<usize> {
    let read = |k: usize, what: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{k}/{what}")).ok()
    };
    let level = (0..8).find(|&k| read(k, "level").is_some_and(|level| level.trim() == "2"))?;
    let kibibytes: usize = read(level, "size")?.trim().strip_suffix('K')?.parse().ok()?;
    (128..=16 << 10).contains(&kibibytes).then_some(kibibytes << 10)
}

#[cfg(not(target_os = "linux"))]
fn told() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_level_cache_has_some_size() {
        assert!((128 << 10..=16 << 20).contains(&second_level()));
    }
}
