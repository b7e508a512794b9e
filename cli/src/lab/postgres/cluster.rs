//! Making PostgreSQL servers: a new one, and a standby as the copy of a primary.

use super::{LIMIT, Server};
use crate::failure::{Doing, Failure, Outcome};
use crate::lab::account::Account;
use crate::lab::layout::{Engine, Lab, NodeName, Part, SALES_PORT};
use crate::lab::process::{Interrupt, write_atomically};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is needed of an installation.
const BINARIES: [&str; 4] = ["initdb", "postgres", "pg_ctl", "pg_basebackup"];
/// Where the server says whether it has our extension.
const EXTENSION_AVAILABLE: &str = "pg_catalog.pg_available_extensions WHERE name = 'vianet'";
/// Oldest major version that this is made for.
const OLDEST: u32 = 13;

/// The directory with PostgreSQL's programs: the one that is named, else the newest of Debian's, else the one in PATH.
pub fn find_binaries(named: Option<&Path>) -> Outcome<PathBuf> {
    let complete = |dir: &PathBuf| BINARIES.iter().all(|name| dir.join(name).is_file());
    if let Some(named) = named {
        let dir = named.canonicalize().doing(|| named.display().to_string())?;
        return match complete(&dir) {
            true => Ok(dir),
            false => Err(Failure::refused(format!(
                "{} has not all of PostgreSQL's programs: {}",
                dir.display(),
                BINARIES.join(", ")
            ))),
        };
    }
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|v| *v >= OLDEST)
        .collect();
    versions.sort_unstable();
    let debian = versions.iter().rev();
    let debian = debian.map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    debian.chain(path).find(complete).ok_or_else(|| {
        Failure::refused(
            "PostgreSQL is not installed (looked in /usr/lib/postgresql/*/bin and in PATH for initdb, postgres, \
             pg_ctl and pg_basebackup): on Debian, apt-get install postgresql",
        )
    })
}

/// Makes and starts the servers of a new lab. Gives the version of the extension `vianet`, where they have it.
pub fn create(lab: &Lab, stop: &Interrupt) -> Outcome<Option<String>> {
    let first = Server::new(lab, NodeName::NodeA)?;
    first.make_dirs()?;
    first.initialise(stop)?;
    first.run(stop)?;
    if lab.meta.engine == Engine::Postgres {
        let second = Server::new(lab, NodeName::NodeB)?;
        second.make_dirs()?;
        second.copy_of(&first, stop)?;
    }
    if lab.meta.no_extension {
        return Ok(None);
    }
    // What is available was created.
    let version = format!("SELECT default_version FROM {EXTENSION_AVAILABLE}");
    Ok(Some(first.ask(&version)?).filter(|version| !version.is_empty()))
}

/// Starts the server of a node again; one that was lost is rebuilt from the other.
pub fn start(lab: &Lab, node: NodeName, stop: &Interrupt) -> Outcome {
    let server = Server::new(lab, node)?;
    if lab.meta.engine == Engine::PostgresShared {
        return server.run(stop);
    }
    let other = Server::new(lab, node.other())?;
    if other.is_primary() {
        return server.copy_of(&other, stop);
    }
    if let Ok(why) = fs::read_to_string(lab.stale_file(node)) {
        return Err(Failure::refused(format!(
            "{} has not the latest commits ({}): start {} first",
            node.name(),
            why.trim(),
            node.other().name()
        )));
    }
    server.run(stop)
}

impl Server<'_> {
    fn make_dirs(&self) -> Outcome {
        for (dir, mode) in [(self.data(), 0o700), (self.socket_dir(), 0o755)] {
            fs::create_dir_all(&dir)
                .and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)))
                .doing(|| dir.display().to_string())?;
            Account::give(self.account.as_ref(), &dir)?;
        }
        self.write_settings()
    }

    /// initdb, the access rules, and the roles: `app` owns `app`; `monitor` looks; `vianet` is the daemons'; `replicator`
    /// copies.
    fn initialise(&self, stop: &Interrupt) -> Outcome {
        let log = self.lab.part_file(self.node, Part::Server, "log");
        let data = self.data();
        let initdb = [
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--wal-segsize=4",
            "--no-sync",
            "-D",
        ];
        (self.program("initdb"))
            .args(initdb)
            .args([&data])
            .finish(None, &log, LIMIT, stop)?;
        self.write(&data.join("pg_hba.conf"), &self.access_rules())?;
        self.write(&data.join("pg_ident.conf"), &self.identities())?;
        self.include_settings()?;
        let password = self.replication_password()?;
        let roles = self.dir().join("roles.sql");
        self.write(
            &roles,
            &format!(
                "CREATE ROLE app LOGIN PASSWORD 'app'\n\
                 CREATE DATABASE app OWNER app\n\
                 CREATE ROLE monitor LOGIN IN ROLE pg_monitor, pg_signal_backend\n\
                 CREATE ROLE vianet LOGIN\n\
                 CREATE ROLE replicator LOGIN REPLICATION PASSWORD '{password}'\n\
                 CREATE FUNCTION public.settle() RETURNS void LANGUAGE plpgsql SECURITY DEFINER \
                 SET search_path = pg_catalog AS $$ BEGIN CHECKPOINT; END $$\n\
                 REVOKE EXECUTE ON FUNCTION public.settle() FROM PUBLIC\n\
                 GRANT EXECUTE ON FUNCTION public.settle() TO monitor\n"
            ),
        )?;
        self.run_alone("postgres", &roles, stop)?;
        if self.lab.meta.no_extension {
            return Ok(());
        }
        let extension = self.dir().join("extension.sql");
        self.write(
            &extension,
            &format!(
                "DO $$ BEGIN IF EXISTS (SELECT FROM {EXTENSION_AVAILABLE}) THEN CREATE EXTENSION vianet; \
                 GRANT EXECUTE ON FUNCTION vianet.scram_verifier(text) TO vianet; END IF; END $$\n"
            ),
        )?;
        self.run_alone("app", &extension, stop)
    }

    /// Runs a file of statements, one a line, as the superuser of a server that is not started yet.
    fn run_alone(&self, database: &str, file: &Path, stop: &Interrupt) -> Outcome {
        let log = self.lab.part_file(self.node, Part::Server, "log");
        (self.program("postgres"))
            .args(["--single", "-c", "exit_on_error=on", "-D"])
            .args([&self.data()])
            .args([database])
            .finish(Some(file), &log, LIMIT, stop)
    }

    /// Becomes a standby of `primary`, from a fresh copy, and takes part in its commits.
    fn copy_of(&self, primary: &Self, stop: &Interrupt) -> Outcome {
        let stale = self.lab.stale_file(self.node);
        write_atomically(&stale, "it is being rebuilt\n")?;
        let data = self.data();
        if let Some(process) = self.process() {
            process.kill()?;
        }
        forget_shared_memory(&data);
        fs::remove_dir_all(&data).doing(|| data.display().to_string())?;
        self.make_dirs()?;
        let log = self.lab.part_file(self.node, Part::Server, "log");
        let (host, port) = (primary.host().to_string(), SALES_PORT.to_string());
        let password = self.replication_password()?;
        (self.program("pg_basebackup"))
            .env(&BTreeMap::from([("PGPASSWORD", password)]))
            .args(["-h", &host, "-p", &port, "-U", "replicator", "-X", "stream"])
            .args(["-c", "fast", "--no-sync", "-D"])
            .args([&data])
            .finish(None, &log, LIMIT, stop)?;
        self.include_settings()?;
        self.write(&data.join("standby.signal"), "")?;
        self.wait_for(None)?;
        self.run(stop)?;
        self.joins(primary, stop)
    }

    fn include_settings(&self) -> Outcome {
        let text = format!("include {}\n", quoted(&self.settings_file()));
        self.write(&self.data().join("postgresql.conf"), &text)
    }

    fn settings_file(&self) -> PathBuf {
        self.dir().join("postgresql.conf")
    }

    fn write_settings(&self) -> Outcome {
        let name = match self.lab.meta.engine {
            Engine::PostgresShared => "shared",
            _ => self.node.name(),
        };
        let peer = self.lab.upstream(self.node.other(), "sales");
        let text = format!(
            "# Written by `vianet lab`: a small server that starts quickly. Commits are on disk when they return.\n\
             cluster_name = '{name}'\n\
             listen_addresses = '{}'\n\
             port = {SALES_PORT}\n\
             unix_socket_directories = {}\n\
             max_connections = {}\n\
             shared_buffers = 32MB\n\
             dynamic_shared_memory_type = mmap\n\
             wal_level = replica\n\
             max_wal_senders = 4\n\
             min_wal_size = 16MB\n\
             max_wal_size = 256MB\n\
             wal_keep_size = 64MB\n\
             wal_receiver_status_interval = 1s\n\
             wal_retrieve_retry_interval = 200ms\n\
             hot_standby = on\n\
             password_encryption = scram-sha-256\n\
             log_line_prefix = '%m [%p] %q%u@%d '\n\
             primary_conninfo = 'host={} port={} user=replicator password={} application_name={name}'\n\
             include_if_exists {}\n",
            self.host(),
            quoted(&self.socket_dir()),
            self.lab.meta.connections,
            peer.ip(),
            peer.port(),
            self.replication_password()?,
            quoted(&self.dir().join("sync.conf")),
        );
        self.write(&self.settings_file(), &text)
    }

    /// Who may log in from where. The first two lines are the server's own machine only.
    fn access_rules(&self) -> String {
        let [a, b] = NodeName::ALL.map(|n| self.lab.relay_source(n));
        let relays = match self.lab.meta.trust {
            true => "trust",
            false => "scram-sha-256",
        };
        format!(
            "# The superuser and the health check: only on this machine, only the named users of it.\n\
             local all         postgres    peer map=lab\n\
             local postgres    monitor     peer map=lab\n\
             # The nodes' daemons, which look up verifiers for login tickets.\n\
             local app         vianet      peer map=lab\n\
             # The nodes' relays: clients that come through vianet prove who they are with their password.\n\
             host  app         app         {a}/32  {relays}\n\
             host  app         app         {b}/32  {relays}\n\
             # Clients on this machine without vianet.\n\
             host  app         app         127.0.0.1/32  scram-sha-256\n\
             # The standby.\n\
             host  replication replicator  127.0.0.0/16  scram-sha-256\n"
        )
    }

    fn identities(&self) -> String {
        let own = Account::own().name;
        let database = self.account.as_ref().map_or(&own, |a| &a.name);
        let mut text =
            format!("lab {database} postgres\nlab {database} monitor\nlab {own} vianet\n");
        if *database != own {
            text += &format!("lab {own} monitor\n");
        }
        text
    }

    fn replication_password(&self) -> Outcome<String> {
        let path = self.lab.dir.join("run/replication.password");
        fs::read_to_string(&path).doing(|| path.display().to_string())
    }

    /// Writes a file that the database's user owns and only it can read.
    pub(super) fn write(&self, path: &Path, text: &str) -> Outcome {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        // One that initdb has made has its own mode.
        let only_owner = fs::Permissions::from_mode(0o600);
        options
            .open(path)
            .and_then(|mut file| {
                file.set_permissions(only_owner)?;
                file.write_all(text.as_bytes())
            })
            .doing(|| path.display().to_string())?;
        Account::give(self.account.as_ref(), path)
    }
}

/// A string in postgresql.conf.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Removes the System V segment that a killed server leaves behind. Its postmaster.pid names it; only a segment of that
/// key and that creator which nobody has attached is removed.
pub fn forget_shared_memory(data: &Path) {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (Some(&creator), Some(segment)) = (lines.first(), lines.get(6)) else {
        return;
    };
    let segment: Vec<&str> = segment.split_whitespace().collect();
    // Columns: key shmid perms size cpid lpid nattch ...
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let orphan = table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .any(|row| row.len() > 6 && row[..2] == segment[..] && row[4] == creator && row[6] == "0");
    if orphan {
        // Fails when it has gone in the meantime.
        let _ = std::process::Command::new("ipcrm")
            .args(["-m", segment[1]])
            .stderr(std::process::Stdio::null())
            .status();
    }
}
