//! Programs in other languages by name, unchanged: each has its own way of waiting (asyncio's epoll, libuv's edge cases and
//! `syscall(SYS_close)`, Java's IPv6 sockets with mapped addresses).

mod common;
#[path = "../../tests/support/mod.rs"]
mod support;

use common::{available, finish, library, text};
use std::process::Command;
use support::lab::Lab;
use support::programs::command;

/// Runs what `program` makes over both transports; it must say `wanted`.
fn over_both(lab: &Lab, wanted: &str, program: impl Fn() -> Command) {
    for transport in ["shm", "tcp"] {
        let mut program = program();
        program
            .env("LD_PRELOAD", library())
            .env("VIANET_TRANSPORTS", transport);
        let output = finish(program.env("VIANET_CONFIG", lab.client_toml()));
        let said = text(&output);
        assert!(
            output.status.success() && said.contains(wanted),
            "over {transport}: {said}"
        );
    }
}

const PYTHON: &str = r#"
import asyncio, socket, subprocess
s = socket.create_connection(("ledger.lab", 5432), 20)
assert s.getpeername()[1] == 5432 and s.family == socket.AF_INET
s.sendall(b"select 1+1 as x;\n"); assert b"[[2]]" in s.recv(1000)
# A child by vfork closes every descriptor of its own.
assert subprocess.run(["true"], close_fds=True).returncode == 0
f = s.makefile("rw"); f.write("select 2 as y;\n"); f.flush(); assert "[[2]]" in f.readline()
async def main():
    r, w = await asyncio.open_connection("lab\\ledger", 5432)
    for i in range(500):
        w.write(b"select %d as i;\n" % i); line = await r.readline(); assert b"[[%d]]" % i in line, line
    w.close(); await w.wait_closed()
asyncio.run(main())
s.shutdown(socket.SHUT_WR); f.close(); assert s.recv(100) == b""; s.close()
print("all well")
"#;

const NODE: &str = r#"
const net = require('net'); let n = 0;
const c = net.connect(5432, 'ledger.lab', () => c.write('select 0 as i;\n'));
c.on('data', d => { if (!d.toString().includes('[[' + n + ']]')) throw d;
  if (++n == 300) c.end(); else c.write('select ' + n + ' as i;\n'); });
c.on('close', failed => console.log(n == 300 && !failed ? 'all well' : 'failed'));
"#;

const JAVA: &str = r#"
import java.io.*; import java.net.*;
public class Client { public static void main(String[] a) throws Exception {
  Socket s = new Socket(); s.setTcpNoDelay(true);
  s.connect(new InetSocketAddress("ledger.lab", 5432), 20000); s.setSoTimeout(20000);
  BufferedReader r = new BufferedReader(new InputStreamReader(s.getInputStream())); OutputStream o = s.getOutputStream();
  for (int i = 0; i < 100; i++) {
    o.write(("select " + i + " as i;\n").getBytes()); o.flush();
    if (!r.readLine().contains("[[" + i + "]]")) throw new IOException("not " + i);
  }
  if (!s.getTcpNoDelay()) throw new IOException("the option is lost");
  s.close(); System.out.println("all well"); } }
"#;

#[test]
fn python_node_and_java() {
    let lab = Lab::up("embedded", 172);
    let directory = tempfile::tempdir().expect("temporary directory");
    if available("python3") {
        over_both(&lab, "all well", || {
            let mut python = command("python3");
            python.args(["-c", PYTHON]);
            python
        });
    }
    if available("node") {
        over_both(&lab, "all well", || {
            let mut node = command("node");
            node.args(["-e", NODE]);
            node
        });
    }
    // The compiler comes with the development kit only.
    if available("java") && available("javac") {
        let source = directory.path().join("Client.java");
        std::fs::write(&source, JAVA).expect("written");
        over_both(&lab, "all well", || {
            let mut java = command("java");
            java.arg(&source);
            java
        });
    }
}
