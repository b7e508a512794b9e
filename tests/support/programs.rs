//! The programs and libraries under test, found beside the test executable, and everything else that is run.

use super::PATIENCE;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `target/<profile>/`: where cargo put the test executable's siblings.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    // target/<profile>/deps/test-hash
    exe.ancestors()
        .nth(2)
        .expect("cargo runs tests from target/<profile>/deps")
        .to_path_buf()
}

/// A program or library of this workspace.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let path = target_dir().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make debug` first",
        path.display()
    );
    path
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Scratch space of the integration tests, inside `target/`.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// `make TARGET` (`install`, `uninstall`) with what was built for the tests.
pub fn make(target: &str, prefix: &Path) -> Command {
    let mut make = command("make");
    make.current_dir(root()).arg("-s").arg(target);
    make.arg(format!("PREFIX={}", prefix.display()));
    make.arg(format!("BUILT={}", target_dir().display()));
    // The outer make's flags and variables are not this one's.
    make.env_remove("MAKEFLAGS").env_remove("MAKEOVERRIDES");
    make
}

/// `make install` as packagers do it, below `dir`; returns where its `lib` and `bin` are.
#[track_caller]
pub fn install_below(dir: &Path) -> PathBuf {
    let _ = built("libvianet.so");
    let mut install = make("install", Path::new("/usr"));
    install.arg(format!("DESTDIR={}", dir.display()));
    run_well(Duration::from_secs(120), &mut install);
    dir.join("usr")
}

/// A program named `name` is installed.
pub fn installed(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// Says why a test is not run here; it must be one clear line.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A command that dies with the thread that started it, so that an interrupted test leaves nothing behind.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: the closure runs in the forked child and only makes one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// Runs to the end, within `limit`; kills and panics beyond it. Output is captured.
#[track_caller]
pub fn run_within(limit: Duration, command: &mut Command) -> Output {
    let text = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{text}: {e}"));
    let pid = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = tell.send(());
        output
    });
    let in_time = told.recv_timeout(limit).is_ok();
    if !in_time {
        kill(pid, libc::SIGKILL);
    }
    let output = waiter
        .join()
        .expect("the waiter does not panic")
        .expect("a child can be waited for");
    assert!(
        in_time,
        "{text}: not done after {limit:?}\n{}",
        both(&output)
    );
    output
}

/// As [`run_within`], and panics with what it printed unless it succeeded.
#[track_caller]
pub fn run_well(limit: Duration, command: &mut Command) -> String {
    let text = format!("{command:?}");
    let output = run_within(limit, command);
    assert!(
        output.status.success(),
        "{text}: {}\n{}",
        output.status,
        both(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program printed.
pub fn both(output: &Output) -> String {
    format!(
        "--- stdout\n{}--- stderr\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Sends a signal.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: no memory is involved; the pid is that of a child that was not waited for yet.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Where the threads of a process are.
fn threads(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let dirs = tasks.into_iter().flatten().flatten();
    let shown = dirs.map(|dir| {
        let file = |name| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        format!("-- {}{}\n{}", file("comm"), file("wchan"), file("stack"))
    });
    shown.collect()
}

/// A program in the background; killed when dropped.
pub struct Background {
    child: Child,
    what: String,
}

impl Background {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        Self { child, what }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// kill -9. Panics, and shows where its threads are, if the kernel does not let go of it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let end = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let threads = threads(self.pid());
                eprintln!("{}: does not end after SIGKILL\n{threads}", self.what);
                assert!(std::thread::panicking(), "see above");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        kill(self.pid(), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        kill(self.pid(), libc::SIGCONT);
    }

    /// Waits for its end and panics unless it succeeded.
    #[track_caller]
    pub fn succeed_within(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                assert!(status.success(), "{}: {status}", self.what);
                return;
            }
            assert!(
                Instant::now() < end,
                "{}: not done after {limit:?}",
                self.what
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}
