//! `vianetd`: the node daemon. See `docs/operations.md`.

use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;
use vianet_node::config::Node;
use vianet_node::daemon::{Daemon, Message, load_key};
use vianet_node::hooks;

/// Answers who serves a name, watches the other node and takes over from it, and relays channels to the SQL server.
///
/// SIGTERM and SIGINT stop it in good order; a second one at once. It logs to standard error; VIANET_LOG sets the level
/// (error, warn, info, debug). Exit status: 0 stopped, 1 failed, 2 bad configuration or command line.
#[derive(Parser)]
#[command(name = "vianetd", version)]
struct Args {
    /// The configuration (see docs/configuration.md).
    #[arg(long, value_name = "FILE", default_value = "/etc/vianet/node.toml")]
    config: PathBuf,
    /// Check the configuration, its key file and that the programs of its hooks are there, and end.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    vianet_node::daemon::abort_on_panic();
    let level = match level() {
        Ok(level) => level,
        Err(e) => {
            say(&e);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // Else it panics where standard error cannot be written (a full disk, a pipe that nobody reads).
        .log_internal_errors(false)
        .init();
    let fail = |code: u8, text: &str| {
        say(text);
        ExitCode::from(code)
    };
    let config = match Node::load(&args.config) {
        Ok(config) => config,
        Err(e) => return fail(2, &e.to_string()),
    };
    let programs = || {
        let mut servers = config.servers.iter();
        servers.try_for_each(|server| server.hooks.check_programs(&server.name))
    };
    if let Err(e) = load_key(&config).map(drop).and_then(|()| programs()) {
        return fail(2, &format!("{}: {e}", args.config.display()));
    }
    if args.check_config {
        return match writeln!(std::io::stdout(), "{}: good", args.config.display()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(1, &format!("standard output: {e}")),
        };
    }
    let control = config.control_path();
    let daemon = match Daemon::start(config) {
        Ok(daemon) => daemon,
        Err(e) => return fail(1, &format!("{}: {e}", args.config.display())),
    };
    if let Err(e) = on_signals(&daemon) {
        return fail(1, &format!("signals: {e}"));
    }
    let result = daemon.run();
    hooks::end_all();
    let _ = std::fs::remove_file(control);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(1, &e),
    }
}

/// What `VIANET_LOG` says; a word that is none must not silence the daemon.
fn level() -> Result<LevelFilter, String> {
    let text = std::env::var_os("VIANET_LOG").unwrap_or_default();
    match text.to_string_lossy().to_ascii_lowercase().as_str() {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" | "" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        other => Err(format!(
            "VIANET_LOG = {other:?}: must be error, warn, info or debug"
        )),
    }
}

/// To standard error, if that can be written: the exit status says it too.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "vianetd: {text}");
}

fn on_signals(daemon: &Daemon) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let mail = daemon.mail();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut second = false;
            for _ in signals.forever() {
                if second {
                    say("second signal: ending at once");
                    hooks::end_all();
                    std::process::exit(1);
                }
                second = true;
                mail.send(Message::Terminate);
            }
        })?;
    Ok(())
}
