//! `vianet keygen`: the key pair by which a cluster's nodes prove who they are.

use crate::failure::{Doing, Failure, Outcome};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use vianet::resolve::identity::{SecretKey, random_bytes};

/// Make a cluster's key pair.
///
/// The private key goes to FILE (readable by its owner only, never overwritten): copy it to every node and name it
/// as key_file in node.toml. The public key is printed: clients pin it as public_key in client.toml, and then refuse
/// answers that no node of the cluster has signed. A random cluster_id for node.toml is printed too.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vianet keygen --out /etc/vianet/cluster.key")]
pub struct Args {
    /// The file for the private key; it must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object: `{"public_key":..,"cluster_id":..}`.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let key = SecretKey::generate()?;
    write_key(&args.out, &key)?;
    let public_key = key.public().to_hex();
    let id = random_bytes::<16>()?;
    let cluster_id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    if args.json {
        let line = serde_json::json!({"public_key": public_key, "cluster_id": cluster_id});
        println!("{line}");
    } else {
        println!("public_key = \"{public_key}\"    # client.toml, [clusters.NAME]");
        println!("cluster_id = \"{cluster_id}\"    # node.toml, equal on all nodes");
    }
    Ok(())
}

/// Writes a private key to a new file that only its owner can read.
pub fn write_key(path: &Path, key: &SecretKey) -> Outcome {
    write_private(path, &format!("{}\n", key.to_hex()))
}

/// Writes a new file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> Outcome {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match file {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let text = format!("{} exists: keys are never overwritten", path.display());
            return Err(Failure::refused(text));
        }
        file => file.doing(|| path.display().to_string())?,
    };
    file.write_all(text.as_bytes())
        .doing(|| path.display().to_string())
}
