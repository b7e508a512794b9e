//! `vianet run`: starts a program with the preload library.
//!
//! What can be known before the program starts is said here, since the preload library itself is silent: no such program,
//! no such library, a configuration that cannot be used, a program that the dynamic linker will not give the library to.

mod program;

use crate::failure::{Failure, Outcome};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use vianet::config::Client;
use vianet::via::Transport;

/// Run a program whose connections by server name go through vianet.
///
/// The program needs no change: where it takes a host name, give it `cluster\server`, `server.cluster` or an alias of
/// the configuration. Everything else that it connects to is left alone.
///
/// The exit status is the program's own; 127 if it was not found, 126 if it cannot be executed.
#[derive(clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// The client configuration, instead of the usual places.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Refuse an ordinary TCP connection where no VIA transport can be had.
    #[arg(long)]
    strict: bool,

    /// Use only these transports, in the configuration's order.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = transport)]
    transports: Vec<Transport>,

    /// The program and its arguments.
    #[arg(
        trailing_var_arg = true,
        required = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  vianet run -- psql 'host=sales.lab user=app dbname=app'
  vianet run --config /tmp/lab/client.toml -- pgbench -h 'lab\\sales' -U app app
  vianet run --strict -- ./report sales.lab

Environment:
  VIANET_PRELOAD     the preload library, where it is not found by itself
  VIANET_DISABLE=1   turns the preload library off: the program runs as without it
  VIANET_DEBUG=FILE  appends what the library does to FILE

Static programs, Go programs and setuid programs cannot be served: the dynamic linker does not load the library into
them, or they do not call the C library.";

const LIBRARY: &str = "libvianet_preload.so";

/// Runs the subcommand. Returns only if the program could not be started.
pub fn run(args: Args) -> Outcome {
    let (name, arguments) = args.command.split_first().expect("clap: at least one");
    let program = program::find(name)?;
    for obstacle in program::obstacles(&program) {
        eprintln!(
            "vianet: warning: {}: {obstacle}; names will not work in it",
            program.display()
        );
    }
    let library = library()?;

    let mut command = Command::new(&program);
    command.arg0(name).args(arguments);
    command.env(
        "LD_PRELOAD",
        preload_list(&library, std::env::var_os("LD_PRELOAD")),
    );
    match args.config.or_else(Client::find) {
        Some(config) => {
            Client::load(&config)?;
            let absolute = std::path::absolute(&config).unwrap_or(config);
            command.env("VIANET_CONFIG", absolute);
        }
        None => eprintln!(
            "vianet: warning: there is no client.toml in the usual places, so no name is ours: use --config FILE"
        ),
    }
    let transports = allowed(args.transports, args.strict)?;
    if !transports.is_empty() {
        let names: Vec<_> = transports.iter().map(|t| t.name()).collect();
        command.env("VIANET_TRANSPORTS", names.join(","));
    }
    let err = command.exec();
    let code = if err.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    Err(Failure::with_code(
        code,
        format!("{}: {err}", program.display()),
    ))
}

fn transport(name: &str) -> Result<Transport, String> {
    let all = [
        Transport::Shm,
        Transport::Rdma,
        Transport::Tcp,
        Transport::Plain,
    ];
    all.into_iter()
        .find(|t| t.name() == name)
        .ok_or_else(|| "known are shm, rdma, tcp and plain".to_owned())
}

/// The transports that the program may use; empty: as configured.
fn allowed(mut asked: Vec<Transport>, strict: bool) -> Outcome<Vec<Transport>> {
    if !strict {
        return Ok(asked);
    }
    if asked.is_empty() {
        return Ok(vec![Transport::Shm, Transport::Rdma, Transport::Tcp]);
    }
    asked.retain(|t| *t != Transport::Plain);
    if asked.is_empty() {
        return Err(Failure::with_code(
            2,
            "--strict refuses plain, and --transports allows nothing else",
        ));
    }
    Ok(asked)
}

/// Where the preload library is: named by the environment, beside this program (as in a build directory), or where `make
/// install` puts it.
pub fn library() -> Outcome<PathBuf> {
    if let Some(named) = std::env::var_os("VIANET_PRELOAD") {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(std::path::absolute(&named).unwrap_or(named)),
            false => Err(Failure::failed(format!(
                "VIANET_PRELOAD names {}, which is not a file",
                named.display()
            ))),
        };
    }
    let me = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("cannot find this program's own file: {e}")))?;
    let here = me.parent().unwrap_or(Path::new("/"));
    let places = places(here);
    places
        .iter()
        .map(|place| place.join(LIBRARY))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let looked: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            Failure::failed(format!(
                "{LIBRARY} is not in {}: install it, or name it with VIANET_PRELOAD=FILE",
                looked.join(", ")
            ))
        })
}

fn places(here: &Path) -> Vec<PathBuf> {
    let mut places = vec![here.to_owned()];
    if let Some(prefix) = here.parent() {
        let multiarch = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
        places.extend(["lib", "lib64", "lib/vianet", &multiarch].map(|lib| prefix.join(lib)));
    }
    places
}

/// LD_PRELOAD with `library` first, so that its hooks are the outermost; what was there stays.
fn preload_list(library: &Path, existing: Option<OsString>) -> OsString {
    let mut list = OsString::from(library);
    if let Some(existing) = existing.filter(|e| !e.is_empty()) {
        list.push(":");
        list.push(existing);
    }
    list
}

#[cfg(test)]
mod tests;
