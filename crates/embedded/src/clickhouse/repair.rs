//! Repairs what a killed engine may leave between two of its own steps.
//!
//! A non-replicated MergeTree inserts a block in this order: the block's deduplication id into
//! `deduplication_logs/`, then the part from its temporary name to its final one. Killed between
//! the two, the id is there and the rows are not, and the engine drops every retry of that block as
//! a duplicate: rows that were to be inserted again after a crash would be lost. So before the
//! engine loads its tables, a last record whose part does not exist is cut off.
//!
//! Only the last record can be such a one, because the engine holds one lock per table over both
//! steps. (`MergeTreeSink::commitPart`, `MergeTreeDeduplicationLog`, ClickHouse 26.7.)

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Cuts off the orphaned records below `data_dir`; returns the logs that were changed.
pub(super) fn deduplication_logs(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut repaired = Vec::new();
    for shard in entries(&data_dir.join("store"))? {
        for table in entries(&shard)? {
            if let Some(log) = last_log(&table.join("deduplication_logs"))?
                && cut_orphan(&table, &log)?
            {
                repaired.push(log);
            }
        }
    }
    Ok(repaired)
}

/// The paths in a folder; none when there is no such folder.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    listed.map(|entry| Ok(entry?.path())).collect()
}

/// The newest log that has a record: `deduplication_log_N.txt` with the highest N.
fn last_log(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for path in entries(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let number = name
            .strip_prefix("deduplication_log_")
            .and_then(|n| n.strip_suffix(".txt"));
        let Some(number) = number.and_then(|n| n.parse::<u64>().ok()) else {
            continue;
        };
        let has_records = fs::metadata(&path)?.len() > 0;
        if has_records && newest.as_ref().is_none_or(|(newest, _)| number > *newest) {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// A record is `operation \t part \t id \n`, operation 1 for an insert.
fn cut_orphan(table: &Path, log: &Path) -> io::Result<bool> {
    let text = fs::read(log)?;
    let last = text.strip_suffix(b"\n").unwrap_or(&text);
    let start = last
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let record = String::from_utf8_lossy(&last[start..]).into_owned();
    let mut fields = record.split('\t');
    let (Some("1"), Some(part)) = (fields.next(), fields.next()) else {
        return Ok(false);
    };
    let Some(part) = Part::parse(part) else {
        return Ok(false);
    };
    let exists = entries(table)?
        .iter()
        .filter_map(|path| Part::parse(path.file_name()?.to_str()?))
        .any(|on_disk| on_disk.covers(&part));
    if exists {
        return Ok(false);
    }
    let file = File::options().write(true).open(log)?;
    file.set_len(start as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// A part's name: `partition_min_max_level`, with `_mutation` behind it after a mutation.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    partition: String,
    blocks: (u64, u64),
}

impl Part {
    fn parse(name: &str) -> Option<Self> {
        let fields: Vec<&str> = name.split('_').collect();
        let ([partition, min, max, _level] | [partition, min, max, _level, _]) = fields[..] else {
            return None;
        };
        let blocks = (min.parse().ok()?, max.parse().ok()?);
        Some(Self {
            partition: partition.to_owned(),
            blocks,
        })
    }

    fn covers(&self, other: &Self) -> bool {
        self.partition == other.partition
            && self.blocks.0 <= other.blocks.0
            && self.blocks.1 >= other.blocks.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(parts: &[&str], log: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("store/abc/abcdef");
        for part in parts {
            fs::create_dir_all(table.join(part)).unwrap();
        }
        fs::create_dir_all(table.join("deduplication_logs")).unwrap();
        let path = table.join("deduplication_logs/deduplication_log_2.txt");
        fs::write(
            table.join("deduplication_logs/deduplication_log_10.txt"),
            "",
        )
        .unwrap();
        fs::write(
            table.join("deduplication_logs/deduplication_log_1.txt"),
            "1\tall_9_9_0\tx\n",
        )
        .unwrap();
        fs::write(&path, log).unwrap();
        (dir, path)
    }

    #[test]
    fn a_last_record_without_its_part_is_cut_off() {
        let kept = "1\tall_1_1_0\ta\n";
        let (dir, log) = table(&["all_1_1_0"], &format!("{kept}1\tall_2_2_0\tb\n"));
        assert_eq!(
            deduplication_logs(dir.path()).unwrap(),
            std::slice::from_ref(&log)
        );
        assert_eq!(fs::read_to_string(&log).unwrap(), kept);
        // What is then the last record has its part.
        assert!(deduplication_logs(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_record_whose_part_was_merged_or_mutated_stays() {
        for part in ["all_2_2_0", "all_1_4_1", "all_1_4_1_9"] {
            let (dir, _) = table(&[part], "1\tall_2_2_0\tb\n");
            assert!(deduplication_logs(dir.path()).unwrap().is_empty(), "{part}");
        }
        for part in ["202601_2_2_0", "tmp_insert_all_2_2_0", "all_3_3_0"] {
            let (dir, _) = table(&[part], "1\tall_2_2_0\tb\n");
            assert_eq!(deduplication_logs(dir.path()).unwrap().len(), 1, "{part}");
        }
    }

    #[test]
    fn a_dropped_part_and_an_empty_data_path_are_left_alone() {
        let (dir, _) = table(&[], "2\tall_2_2_0\tb\n");
        assert!(deduplication_logs(dir.path()).unwrap().is_empty());
        assert!(
            deduplication_logs(&dir.path().join("nowhere"))
                .unwrap()
                .is_empty()
        );
    }
}
