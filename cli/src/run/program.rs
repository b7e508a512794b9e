//! The program that is to be run: where it is, and why the preload library might not get into it.

use crate::failure::{Failure, Outcome};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Finds `name` as a shell does: as it is when there is a slash in it, else along PATH.
pub fn find(name: &OsStr) -> Outcome<PathBuf> {
    let shown = name.display();
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Ok(meta) if executable(&meta) => Ok(path),
            Ok(_) => Err(Failure::with_code(
                126,
                format!("{shown}: not an executable file"),
            )),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(Failure::with_code(126, format!("{shown}: {e}")))
            }
            Err(e) => Err(Failure::with_code(127, format!("{shown}: {e}"))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut seen = None;
    for candidate in std::env::split_paths(&path).map(|directory| directory.join(name)) {
        match candidate.metadata() {
            Ok(meta) if executable(&meta) => return Ok(candidate),
            Ok(_) => seen = seen.or(Some(candidate)),
            Err(_) => {}
        }
    }
    Err(match seen {
        Some(file) => {
            Failure::with_code(126, format!("{}: not an executable file", file.display()))
        }
        None => Failure::with_code(127, format!("{shown}: command not found in PATH")),
    })
}

fn executable(meta: &std::fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// Why the preload library will not work in `program` (or in the interpreter of a script); empty for most programs.
/// What cannot be read is not judged.
pub fn obstacles(program: &Path) -> Vec<String> {
    let mut found = Vec::new();
    // Scripts may be interpreted by scripts; the kernel allows a few levels.
    let mut at = program.to_owned();
    for _ in 0..5 {
        let Ok(file) = File::open(&at) else { break };
        if raises_privileges(&file, &at) {
            found.push("runs with raised privileges, so LD_PRELOAD is ignored".to_owned());
        }
        let mut start = [0; 256];
        let Ok(n) = (&file).read(&mut start) else {
            break;
        };
        match interpreter(&start[..n]) {
            Some(next) => at = next,
            None => {
                found.extend(Elf::read(&file).and_then(|elf| elf.obstacle()));
                break;
            }
        }
    }
    found
}

/// Setuid and setgid for somebody else, and file capabilities: the dynamic linker then ignores LD_PRELOAD.
fn raises_privileges(file: &File, path: &Path) -> bool {
    let Ok(meta) = file.metadata() else {
        return false;
    };
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let mode = meta.permissions().mode();
    let by_mode =
        (mode & 0o4000 != 0 && meta.uid() != uid) || (mode & 0o2000 != 0 && meta.gid() != gid);
    let mut value = [0u8; 64];
    let capable = rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok();
    by_mode || (capable && uid != 0)
}

/// The interpreter of a script that begins with `#!`.
fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let mut words = line
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let first = PathBuf::from(OsStr::from_bytes(words.next()?));
    // `#!/usr/bin/env python3`: env finds the program along PATH.
    if first.file_name() == Some(OsStr::new("env")) {
        let named = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
        return find(OsStr::from_bytes(named)).ok();
    }
    Some(first)
}

/// As much of a 64-bit little-endian ELF file as is needed to judge it.
struct Elf {
    class_64: bool,
    interpreter: Option<Vec<u8>>,
    go: bool,
}

impl Elf {
    fn read(file: &File) -> Option<Self> {
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).ok()?;
        if !header.starts_with(b"\x7fELF") {
            return None;
        }
        if header[4] != 2 || header[5] != 1 {
            return Some(Self {
                class_64: false,
                interpreter: None,
                go: false,
            });
        }
        let segments = Table::at(&header, 32, 54, 56);
        let interpreter = segments.entries(file).find_map(|entry| {
            const PT_INTERP: u32 = 3;
            (u32_at(&entry, 0)? == PT_INTERP)
                .then(|| contents(file, u64_at(&entry, 8)?, u64_at(&entry, 32)?))?
        });
        Some(Self {
            class_64: true,
            interpreter,
            go: has_section(file, &header, b".note.go.buildid").unwrap_or(false),
        })
    }

    fn obstacle(&self) -> Option<String> {
        if !self.class_64 {
            return Some("is not a program for this machine's word size".to_owned());
        }
        if self.go {
            return Some("is a Go program, which makes its system calls by itself".to_owned());
        }
        match &self.interpreter {
            None => Some("is a static program, which loads no library".to_owned()),
            Some(name) if name.windows(7).any(|w| w == b"ld-musl") => {
                Some("uses another C library (musl)".to_owned())
            }
            Some(_) => None,
        }
    }
}

/// A table of equal entries in an ELF file.
struct Table {
    offset: u64,
    entry: usize,
    count: usize,
}

impl Table {
    fn at(header: &[u8], offset: usize, entry: usize, count: usize) -> Self {
        let u16_at = |at: usize| {
            header
                .get(at..at + 2)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
        };
        Self {
            offset: u64_at(header, offset).unwrap_or(0),
            entry: u16_at(entry).into(),
            count: u16_at(count).into(),
        }
    }

    fn entries<'f>(&self, file: &'f File) -> impl Iterator<Item = Vec<u8>> + 'f {
        let (offset, entry) = (self.offset, self.entry);
        (0..self.count as u64)
            .map_while(move |n| contents(file, offset.checked_add(n * entry as u64)?, entry as u64))
    }
}

fn has_section(file: &File, header: &[u8], wanted: &[u8]) -> Option<bool> {
    let sections = Table::at(header, 40, 58, 60);
    let names = usize::from(u16::from_le_bytes([header[62], header[63]]));
    let entry = sections.entries(file).nth(names)?;
    let strings = contents(file, u64_at(&entry, 24)?, u64_at(&entry, 32)?)?;
    Some(sections.entries(file).any(|entry| {
        let name = u32_at(&entry, 0).and_then(|at| strings.get(at as usize..));
        name.is_some_and(|name| name.split(|&b| b == 0).next() == Some(wanted))
    }))
}

/// At most a mebibyte of the file: tables and names are smaller, and a broken file may claim anything.
fn contents(file: &File, offset: u64, len: u64) -> Option<Vec<u8>> {
    if len > 1 << 20 {
        return None;
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
