//! Packs the sources of each bundle version for `src/bundle/embedded.rs`: what the version's folder holds, and what all share.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("bundles/flux");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let folder_of = |file: &Path| Some(file.strip_prefix(&root).ok()?.components().next()?.as_os_str().to_owned());
    let is_version = |folder: &Path| root.join(folder).join("version.yaml").exists();
    let mut list = String::from("&[");
    for manifest in files.iter().filter(|file| file.ends_with("version.yaml")) {
        let version = folder_of(manifest).ok_or("version.yaml is in no folder")?;
        let belongs = |file: &&PathBuf| folder_of(file).is_some_and(|f| f == version || !is_version(f.as_ref()));
        let packed = out.join(format!("{}.tar.gz", version.to_string_lossy()));
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(File::create(&packed)?, flate2::Compression::best()));
        for file in files.iter().filter(belongs) {
            let content = fs::read(file)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, file.strip_prefix(&root)?, content.as_slice())?;
        }
        tar.into_inner()?.finish()?;
        write!(list, "({:?}, include_bytes!({:?})),", version.to_string_lossy(), packed.display().to_string())?;
    }
    fs::write(out.join("embedded.rs"), list + "]")?;
    Ok(())
}

/// All files below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // A folder whose files come and go has to be watched by itself.
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    Ok(())
}
