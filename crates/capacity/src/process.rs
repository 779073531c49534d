//! CPU time and memory of processes, from /proc. Elsewhere than on Linux they are unknown, which is not 0.

use std::fs::read_to_string;

/// How the consumption of a part can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// It is this process of this machine.
    Process(u32),
    /// It is the ClickHouse server that is asked: it counts its own CPU time.
    AskClickHouse,
    /// It runs elsewhere.
    Unknown,
}

/// What a part has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Consumption {
    /// User and system time; seconds.
    pub cpu_seconds: Option<f64>,
    /// Most memory held at a time; bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// What a process has used; unknown where it has ended.
pub(crate) fn of(pid: u32) -> Consumption {
    Consumption {
        cpu_seconds: read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| ticks(&stat))
            .map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
        peak_memory_bytes: read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|status| peak(&status)),
    }
}

/// utime + stime: fields 14 and 15 of proc(5), counted after the name, which may hold blanks and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 10 0 0 0 700 50 0 0 20 0 5 0 100 0";
        assert_eq!(ticks(stat), Some(750));
    }

    #[test]
    fn the_peak_is_in_bytes() {
        assert_eq!(peak("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n"), Some(2 << 20));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something_and_one_that_is_not_there_is_unknown() {
        let own = of(std::process::id());
        assert!(own.peak_memory_bytes.unwrap() > 0 && own.cpu_seconds.is_some());
        assert_eq!(of(u32::MAX), Consumption::default());
    }
}
