//! The archive of a bundle: packed so that the same files always give the same bytes, unpacked as if a stranger had packed it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;

use super::ArtifactError;
use crate::render::digest as digest_of;

/// Files by path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

const ENTRIES_LIMIT: usize = 10_000;
const FILE_LIMIT: u64 = 10 << 20;
const TOTAL_LIMIT: u64 = 100 << 20;
const PATH_LIMIT: usize = 1_024;
const DEPTH_LIMIT: usize = 32;

/// A packed bundle.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Gzipped tar.
    pub bytes: bytes::Bytes,
    /// `sha256:` of the bytes.
    pub digest: String,
}

impl Archive {
    /// An archive of these bytes.
    pub fn new(bytes: impl Into<bytes::Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: digest_of(&bytes), bytes }
    }
}

/// Packs files: sorted, without times, owners or anything else of the machine that packs.
pub fn pack(files: &Files) -> Result<Archive, ArtifactError> {
    let fail = |e: std::io::Error| ArtifactError::Rejected(format!("cannot pack: {e}"));
    let tar = write_tar(files.iter().map(|(path, content)| (path, content.as_slice())))?;
    // GzBuilder's defaults: no file name, no time, operating system "unknown".
    let mut gzip = flate2::GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    gzip.write_all(&tar).map_err(fail)?;
    Ok(Archive::new(gzip.finish().map_err(fail)?))
}

/// Writes a tar archive of files.
pub(super) fn write_tar<'a>(files: impl Iterator<Item = (&'a String, &'a [u8])>) -> Result<Vec<u8>, ArtifactError> {
    let fail = |e: std::io::Error| ArtifactError::Rejected(format!("cannot pack: {e}"));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, path, content).map_err(fail)?;
    }
    tar.into_inner().map_err(fail)
}

/// Unpacks bytes whose digest was checked. Regular files only, nothing outside, nothing twice, nothing huge, nothing hidden
/// behind the end.
pub(super) fn unpack(bytes: &[u8]) -> Result<Files, ArtifactError> {
    let mut tar = Vec::new();
    let mut gzip = GzDecoder::new(bytes);
    gzip.by_ref().take(TOTAL_LIMIT + 1).read_to_end(&mut tar).map_err(|e| damaged(&e))?;
    if tar.len() as u64 > TOTAL_LIMIT {
        return Err(ArtifactError::Rejected(format!(
            "unpacked size exceeds {} MiB (compressed {} KiB)",
            TOTAL_LIMIT >> 20,
            bytes.len() / 1024
        )));
    }
    let rest = gzip.into_inner();
    if !rest.is_empty() {
        return Err(ArtifactError::Rejected(format!(
            "archive has {} bytes after the end of its gzip stream",
            rest.len()
        )));
    }
    read_tar(&tar)
}

fn damaged(error: &std::io::Error) -> ArtifactError {
    ArtifactError::Rejected(format!("archive is damaged: {error}"))
}

/// Reads a tar archive under the same rules.
pub(super) fn read_tar(tar: &[u8]) -> Result<Files, ArtifactError> {
    let reject = |text: String| ArtifactError::Rejected(text);
    let mut files = Files::new();
    let mut folded = BTreeSet::new();
    let mut end = 0;
    let mut archive = tar::Archive::new(tar);
    for (count, entry) in archive.entries().map_err(|e| damaged(&e))?.enumerate() {
        if count >= ENTRIES_LIMIT {
            return Err(reject(format!("archive has more than {ENTRIES_LIMIT} entries")));
        }
        let mut entry = entry.map_err(|e| damaged(&e))?;
        let path = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| reject("an entry's path is not UTF-8".to_owned()))?;
        let kind = entry.header().entry_type();
        // Two readers that believe different sizes see different files (CVE-2025-62518).
        if entry.header().entry_size().map_err(|e| damaged(&e))? != entry.size() {
            return Err(reject(format!("entry {path:?}: PAX size does not match header")));
        }
        end = entry.raw_file_position() + entry.size();
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            return Err(reject(format!("entry {path:?}: {} not allowed (regular files only)", plural(kind))));
        }
        let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
        check_path(&name).map_err(|why| reject(format!("entry {path:?}: {why}")))?;
        if entry.size() > FILE_LIMIT {
            return Err(reject(format!("entry {path:?}: larger than {} MiB", FILE_LIMIT >> 20)));
        }
        if !folded.insert(name.to_lowercase()) {
            return Err(reject(format!("duplicate entry {name:?}")));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(|e| damaged(&e))?;
        files.insert(name, content);
    }
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    if tar.get(end..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
        return Err(reject("archive has content after its end".to_owned()));
    }
    Ok(files)
}

/// What an entry that is no file is called.
fn plural(kind: tar::EntryType) -> &'static str {
    use tar::EntryType as E;
    match kind {
        E::Symlink => "symlinks are",
        E::Link => "hard links are",
        E::Char | E::Block => "devices are",
        E::Fifo => "FIFOs are",
        E::GNUSparse => "sparse files are",
        _ => "this type of entry is",
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_LIMIT || path.split('/').count() > DEPTH_LIMIT {
        return Err("path is empty, too long or too deep");
    }
    let escapes = path.starts_with('/')
        || path.contains(['\\', '\0', ':'])
        || path.split('/').any(|part| part == ".." || part == "." || part.is_empty());
    if escapes { Err("path escapes the archive or is not normal") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rejection(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        build(&mut tar);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        unpack(&gzip.finish().unwrap()).unwrap_err().to_string()
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType) {
        let mut header = tar::Header::new_gnu();
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(1);
        header.set_cksum();
        tar.append(&header, &b"x"[..]).unwrap();
    }

    #[test]
    fn hostile_archives_are_refused() {
        use tar::EntryType as E;
        for (path, kind, expected) in [
            ("../etc/x", E::Regular, "entry \"../etc/x\": path escapes the archive or is not normal"),
            ("/etc/x", E::Regular, "entry \"/etc/x\": path escapes the archive or is not normal"),
            ("a\\b", E::Regular, "entry \"a\\\\b\": path escapes the archive or is not normal"),
            ("C:x", E::Regular, "entry \"C:x\": path escapes the archive or is not normal"),
            ("a", E::Symlink, "entry \"a\": symlinks are not allowed (regular files only)"),
            ("a", E::Link, "entry \"a\": hard links are not allowed (regular files only)"),
            ("a", E::Char, "entry \"a\": devices are not allowed (regular files only)"),
        ] {
            assert_eq!(rejection(|tar| file(tar, path, kind)), expected);
        }
        let twice = rejection(|tar| {
            file(tar, "a.yaml", E::Regular);
            file(tar, "A.yaml", E::Regular);
        });
        assert_eq!(twice, "duplicate entry \"A.yaml\"");
    }

    #[test]
    fn nothing_hides_behind_the_end() {
        let files = Files::from([("a.yaml".to_owned(), b"a: 1".to_vec())]);
        let packed = pack(&files).unwrap().bytes.to_vec();
        let error = |bytes: &[u8]| unpack(bytes).unwrap_err().to_string();
        // A second member, which `gunzip` would append and others would not.
        let mut two = packed.clone();
        two.extend_from_slice(&packed);
        assert_eq!(error(&two), format!("archive has {} bytes after the end of its gzip stream", packed.len()));
        let mut tar = write_tar(files.iter().map(|(path, content)| (path, content.as_slice()))).unwrap();
        tar.extend_from_slice(b"kind: Evil");
        assert_eq!(read_tar(&tar).unwrap_err().to_string(), "archive has content after its end");
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let error = rejection(|tar| {
            tar.append_pax_extensions([("size", b"3".as_slice())]).unwrap();
            file(tar, "a", tar::EntryType::Regular);
        });
        assert_eq!(error, "entry \"a\": PAX size does not match header");
    }

    #[test]
    fn a_bomb_is_refused_before_it_fills_memory() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        let block = vec![0u8; 1 << 20];
        for _ in 0..101 {
            gzip.write_all(&block).unwrap();
        }
        let error = unpack(&gzip.finish().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("unpacked size exceeds 100 MiB (compressed "), "{error}");
    }

    proptest! {
        #[test]
        fn packing_is_reproducible_and_loses_nothing(
            files in proptest::collection::btree_map("[a-z]{1,8}(/[a-z]{1,8}){0,3}\\.yaml", proptest::collection::vec(any::<u8>(), 0..200), 0..10)
        ) {
            let (one, two) = (pack(&files).unwrap(), pack(&files).unwrap());
            prop_assert_eq!(&one.digest, &two.digest);
            prop_assert_eq!(unpack(&one.bytes).unwrap(), files);
        }

        #[test]
        fn any_bytes_are_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = unpack(&bytes);
        }
    }
}
